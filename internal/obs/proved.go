package obs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
)

// Proof is the knowledge about one property of a server.
type Proof int32

// The states of a Proof.
const (
	Unproved Proof = iota // nobody tried yet
	Holds                 // the server was seen to do it
	Fails                 // the server was seen not to do it, and is asked for it no more
)

// String is the state in one word.
func (p Proof) String() string {
	switch p {
	case Holds:
		return "holds"
	case Fails:
		return "fails"
	}
	return "unproved"
}

// Proved tells which properties a server has shown, and which it lacks, since the store was opened.
type Proved struct {
	ConditionalPut Proof // it takes a name once: If-None-Match on a put
	BatchDelete    Proof // it deletes many objects by one request
	ListV2         Proof // it lists by version 2; else by version 1
	Checksum       Proof // it verifies a checksum of a put; else the digest in the signature
	Lock           Proof // it keeps the retention that a put asks for
}

// fact is a property of a server that is found out at run time.
type fact struct{ atomic.Int32 }

func (f *fact) set(holds bool) {
	if holds {
		f.Store(int32(Holds))
	} else {
		f.Store(int32(Fails))
	}
}

func (f *fact) proof() Proof { return Proof(f.Load()) }
func (f *fact) fails() bool  { return f.proof() == Fails }

// facts are the properties of the server of a bucket.
type facts struct {
	conditionalPut, batchDelete, listV2 fact

	trying sync.Mutex // of two trials at once, one could remove the object of the other in between
	key    string     // of the object by which conditionalPut is proved; "" until the first trial
}

// prover is an ability that the stores of this package have beyond Store: to find out
// whether the server takes a name only once.
type prover interface {
	proveConditionalPut(ctx context.Context, key string, body []byte) (bool, error)
}

// ProveConditionalPut puts an object and tells whether PutNew of the store is atomic, as
// proved and not as assumed. It is for a caller that is about to rely on atomic puts. Every
// writer must put this object with the same bytes, since a server that ignores the condition
// writes it again. On success the object is there, and Capabilities tell the same.
func ProveConditionalPut(ctx context.Context, s Store, key string, body []byte) (bool, error) {
	if p, ok := s.(prover); ok {
		return p.proveConditionalPut(ctx, key, body)
	}
	return s.Capabilities().ConditionalPut, s.Put(ctx, key, body)
}

func (r *retrying) proveConditionalPut(ctx context.Context, key string, body []byte) (proved bool, err error) {
	err = r.do(ctx, opPut, key, func(ctx context.Context) error {
		proved, err = ProveConditionalPut(ctx, r.Store, key, body)
		return err
	})
	return proved, err
}

func (o *observed) proveConditionalPut(ctx context.Context, key string, body []byte) (bool, error) {
	return ProveConditionalPut(ctx, o.Store, key, body)
}

func (s *limited) proveConditionalPut(ctx context.Context, key string, body []byte) (proved bool, err error) {
	err = s.put(ctx, opPut, key, body, func(ctx context.Context) error {
		proved, err = ProveConditionalPut(ctx, s.Store, key, body)
		return err
	})
	return proved, err
}

func (s *s3Store) proveConditionalPut(ctx context.Context, key string, body []byte) (bool, error) {
	if err := enter(ctx, opPut, key); err != nil {
		return false, err
	}
	if !s.takesCondition() || s.proved.conditionalPut.proof() == Holds {
		return s.takesCondition(), s.Put(ctx, key, body)
	}
	c := s.begin(ctx, opPut, key)
	defer c.end()
	// Where the name is free the first put takes it, and the second
	// one shows whether the server looks at the condition.
	for range 2 {
		err := s.send(c, body, true)
		switch {
		case err == nil:
			continue
		case stumbles(err):
			if err := c.fail(s.send(c, body, false)); err != nil {
				return false, err // it was not the condition that the server refused
			}
			s.proved.conditionalPut.set(false)
			return false, nil
		}
		if err = c.fail(err); !errors.Is(err, ErrExists) {
			return false, err
		}
		s.proved.conditionalPut.set(true)
		return true, nil
	}
	s.proved.conditionalPut.set(false)
	return false, nil
}

// mustTakeCondition proves by an object of its own, which it
// removes, that the server takes a name once.
func (s *s3Store) mustTakeCondition(ctx context.Context) error {
	if s.proved.conditionalPut.proof() == Unproved {
		s.proved.trying.Lock()
		defer s.proved.trying.Unlock()
	}
	if s.proved.conditionalPut.proof() == Unproved {
		// the same at each try: a lost answer to the first leaves the proof to the second
		if s.proved.key == "" {
			s.proved.key = "conditional-put-check/" + rand.Text()
		}
		key := s.proved.key
		_, err := s.proveConditionalPut(ctx, key, []byte("Holdfast put this object to see whether the store takes a name once. It may be deleted.\n"))
		if err != nil {
			return err
		}
		// Without the right to delete, the object stays: it is in nobody's way.
		s.fresh.remove([]string{key})
		_ = s.client.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	}
	if !s.takesCondition() {
		return fmt.Errorf("the server does not take a name once: %w", errors.ErrUnsupported)
	}
	return nil
}

// takesCondition tells whether puts have If-None-Match.
func (s *s3Store) takesCondition() bool { return s.conditional && !s.proved.conditionalPut.fails() }

// stumbles reports whether the error is the answer of a server that does not know a
// header or a kind of request.
func stumbles(err error) bool {
	res := minio.ToErrorResponse(err)
	switch res.StatusCode {
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return true
	case http.StatusBadRequest:
		_, known := classByCode[res.Code]
		return !known || slices.Contains([]string{"NotImplemented", "InvalidArgument", "InvalidRequest"}, res.Code)
	}
	return res.Code == "NotImplemented"
}

// proof returns the knowledge about checksums and locks.
func (p *putter) proof() (checksum, lock Proof) {
	switch {
	case p.checksumOff.Load():
		checksum = Fails
	case p.checksumSeen.Load():
		checksum = Holds
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds {
		lock = Holds
	}
	return checksum, lock
}
