package agent

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"holdfast/agent/model"
)

// The reason of a failure is written for operators: it has URLs, paths, hosts,
// keys and commands to type. A tenant gets only the parts of it, between colons,
// that say nothing about the build of the host. A part that is not known to be
// harmless is left out, so no new message has to be thought of here.

// cutWords ends a reason of which a tenant does not get to read
// all; leftOut stands for each part of it that is left out.
const (
	cutWords = " (the operator of the host can see the rest)"
	leftOut  = "…"
)

// harmless is a part of a reason, between two colons, that
// consists of plain words, numbers and the names of volumes.
var harmless = regexp.MustCompile(`^[\pL\pN ,;'’%()"+-]*$`)

// code is a word that may be an id, a key, an address or
// a port: a long one with digits, or a number by itself.
var code = regexp.MustCompile(`[0-9a-fA-F]{8,}|^[0-9]+$|(\pL[\pL\pN]*\pN|\pN[\pL\pN]*\pL)[\pL\pN]{6,}`)

// forTenant has the parts of a reason that a tenant may read.
func (a *Agent) forTenant(reason string) string {
	var kept []string
	cut := false
	for part := range strings.SplitSeq(reason, ": ") {
		if text := strings.TrimRight(part, "."); harmless.MatchString(text) && !code.MatchString(text) && !a.tellsOfHost(text) {
			kept = append(kept, part)
			continue
		}
		if cut = true; len(kept) == 0 || kept[len(kept)-1] != leftOut {
			kept = append(kept, leftOut)
		}
	}
	if !cut {
		return reason
	}
	return strings.Join(kept, ": ") + cutWords
}

// tellsOfHost tells whether the text has a word that names a part of this host or of its store.
func (a *Agent) tellsOfHost(text string) bool {
	a.wordsOnce.Do(func() { a.words = hostWords(a) })
	return slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(` ,;'’%()"+`, r) }), func(word string) bool {
		return a.words[strings.ToLower(word)]
	})
}

// hostWords are the words by which the configuration names
// the host, its store, its control plane and its files.
func hostWords(a *Agent) map[string]bool {
	words := map[string]bool{}
	add := func(text string) {
		if len(text) > 1 {
			words[strings.ToLower(text)] = true
		}
	}
	c := a.cfg
	add(c.HostID)
	urls := []string{c.Store.URL, c.Report.URL, c.IAM.URL}
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		urls = append(urls, os.Getenv(name))
	}
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			continue
		}
		add(u.Hostname())
		for part := range strings.SplitSeq(u.Path, "/") {
			add(part)
		}
		for _, values := range u.Query() {
			for _, v := range values {
				add(v)
				if inner, err := url.Parse(v); err == nil {
					add(inner.Hostname())
				}
			}
		}
	}
	for _, path := range []string{
		c.KeyFile, c.Store.NameKeyFile, c.SigningKeyFile, c.TokensFile, c.StateDir, c.TLS.CertFile, c.TLS.KeyFile, c.IAM.AccountFile,
		c.Report.TokenFile, c.Audit.File, c.Socket,
	} {
		add(filepath.Base(path))
	}
	return words
}

// cause is why the job failed or is held, as far as the caller may know.
func (a *Agent) cause(c model.Caller, j *model.Job) string {
	if c.SeesAll() {
		return j.Cause
	}
	return a.forTenant(j.Cause)
}

// dataForTenant is the data of an event, with as much of its reason and of its warning as a tenant
// may read.
func (a *Agent) dataForTenant(data json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil || fields["reason"] == nil && fields["warning"] == nil {
		return data
	}
	for _, name := range []string{"reason", "warning"} {
		var text string
		if json.Unmarshal(fields[name], &text) != nil { // the event has none
			continue
		}
		told, err := json.Marshal(a.forTenant(text))
		if err != nil {
			return nil
		}
		fields[name] = told
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	return data
}
