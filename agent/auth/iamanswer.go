package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

const (
	// maxAnswer is far above the largest token, which has a catalogue of services in it.
	maxAnswer = 4 << 20
	// maxID is the longest id of a user, project or domain. Keystone's have 64 characters.
	maxID = 255
)

// checked is the way to IAM. It passes on only answers that have the form of IAM's own: a
// proxy, an ingress or a portal for logging in answers too, with any status, and neither its
// page nor its refusal says anything of a token. Each answer is read whole, up to maxAnswer.
type checked struct{ next http.RoundTripper }

// RoundTrip fails for an answer that is not IAM's.
func (c checked) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if cerr := res.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, notIAM("its answer broke off: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, notIAM("its answer is larger than %d bytes", maxAnswer)
	}
	switch code := res.StatusCode; {
	case code >= 200 && code < 300:
		err = checkJSON(res.Header, body)
	// the codes that can mean that IAM refuses a token
	case code == http.StatusNotFound, code == http.StatusUnauthorized:
		if err = checkJSON(res.Header, body); err == nil && !refusal(body, code) {
			err = errors.New("it is no error of IAM's")
		}
	}
	if err != nil {
		return nil, notIAM("it answered %d %s, but %w", res.StatusCode, http.StatusText(res.StatusCode), err)
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return res, nil
}

// notIAMError says why an answer is not believed. It repeats
// nothing of the answer, which may hold a token.
type notIAMError struct{ err error }

func (e *notIAMError) Error() string { return e.err.Error() }
func (e *notIAMError) Unwrap() error { return e.err }

func notIAM(format string, args ...any) error { return &notIAMError{fmt.Errorf(format, args...)} }

func checkJSON(h http.Header, body []byte) error {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return fmt.Errorf("the content type %q is not JSON", h.Get("Content-Type"))
	}
	if !json.Valid(body) { // also where another document follows the first
		return errors.New("the body is no JSON document")
	}
	return nil
}

// refusal tells whether a body is an error of Keystone's, or of a
// cloud's IAM that has its own form beside it.
func refusal(body []byte, code int) bool {
	var said struct {
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
		ErrorCode string `json:"error_code"`
	}
	if json.Unmarshal(body, &said) != nil {
		return false
	}
	return said.Error != nil && said.Error.Code == code || strings.HasPrefix(said.ErrorCode, "IAM.")
}

// tokenAnswer is the part of IAM's answer about a token that this package reads. A nil
// pointer says that a field is missing.
type tokenAnswer struct {
	Token *struct {
		ExpiresAt *time.Time   `json:"expires_at"`
		User      *idAnswer    `json:"user"`
		Project   *idAnswer    `json:"project"`
		Domain    *idAnswer    `json:"domain"`
		Roles     []roleAnswer `json:"roles"`
	} `json:"token"`
}

type roleAnswer struct {
	Name string `json:"name"`
}

type idAnswer struct {
	ID     string    `json:"id"`
	Domain *idAnswer `json:"domain"` // of a project; nil where IAM does not say it
}

// check returns the reason why the answer is no statement about a token. It checks all
// fields that this package uses, and no others.
func (a *tokenAnswer) check() error {
	t := a.Token
	switch {
	case t == nil:
		return notIAM("its answer has no token")
	case t.User == nil:
		return notIAM("its answer has no user")
	case t.ExpiresAt == nil || t.ExpiresAt.IsZero():
		return notIAM("its answer does not say when the token expires")
	}
	for _, of := range []struct {
		name string
		id   *idAnswer
	}{{"user", t.User}, {"project", t.Project}, {"domain", t.Domain}} {
		if of.id != nil && !idValid(of.id.ID) {
			return notIAM("its answer has no id of the %s, or one that is none", of.name)
		}
	}
	return nil
}

// idValid tells whether an id can be one. Ids become tenants, and stand in logs and names.
func idValid(id string) bool {
	return id != "" && len(id) <= maxID && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}
