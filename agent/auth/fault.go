package auth

import "fmt"

// Fault looks at the file of tokens, and tells why nobody is let in by it; nil while it is right.
func (s *Static) Fault() error {
	_, err := s.current()
	return err
}

// ClientFault looks at the authorities and revocation lists, and
// tells why nobody, or not everybody, is let in by certificate; nil
// while they are right, and where callers have no certificates.
func (t *TLS) ClientFault() error {
	if t.o.ClientCAFile == "" {
		return nil
	}
	cas, err := t.cas.Get()
	if err != nil || t.o.CRLFile == "" {
		return err
	}
	lists, err := t.lists.Get()
	if err != nil {
		return fmt.Errorf("revocation list: %w", err)
	}
	for _, ca := range cas.list {
		if l, ok := lists[string(ca.RawSubject)]; ok && t.o.Now().After(l.next) {
			return fmt.Errorf("the revocation list of %s was to be replaced by %s", ca.Subject, l.next.UTC().Format("2006-01-02 15:04:05Z"))
		}
	}
	return nil
}
