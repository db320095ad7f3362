package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"
)

// instancePattern is the form of an instance id: it becomes part of object names and paths.
var instancePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// maxUserIDBytes is above the length of any user id of IAM.
const maxUserIDBytes = 128

// readBody reads at most MaxBodyBytes. After more than that the
// connection is closed, so that a caller can't make us read on.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, Refuse(CodeParameter, "body: larger than %d bytes", MaxBodyBytes)
	case err != nil: // cut short, too slow, or not framed as HTTP wants it: the caller's end
		return nil, Refuse(CodeParameter, "body: could not be read whole")
	}
	return body, nil
}

// noBody checks that a call that takes no parameters was given none: an empty body or {}.
func noBody(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	return eachField(body, func(key string, _ json.RawMessage) error { return unknownField(key) })
}

// command is the body of a backup call.
type command struct {
	userID *string // nil where not given
	ids    []string
	verb   string // "" for a backup
	// deadline is when the host is needed; zero where the command does not say.
	deadline time.Time
	backup   string // id of the backup to restore; "" for the newest
}

// digest tells commands apart. It covers the body's meaning, not its spelling, so that a caller
// whose JSON library orders keys differently on a second try still sends the same command.
func (c command) digest() [32]byte {
	b, err := json.Marshal(struct {
		User *string  `json:"user_id"`
		IDs  []string `json:"instance_ids"`
		// Left out where there is none, so that digests in older journals stay valid.
		Verb     string    `json:"verb,omitempty"`
		Deadline time.Time `json:"deadline,omitzero"`
		Backup   string    `json:"backup_id,omitempty"`
	}{c.userID, c.ids, c.verb, c.deadline, c.backup})
	if err != nil {
		panic(err) // strings always marshal
	}
	return sha256.Sum256(b)
}

const missingIDs = "instance_ids: missing"

// decodeBackup is decodeBatch, and takes a deadline too.
func decodeBackup(body []byte) (command, error) { return decode(body, true) }

// decodeBatch reads both forms of the body, {"instance_ids": [...]}
// and {"instance_id": "..."}, each with or without user_id. An error
// is *Error with CodeParameter, naming the field and its value.
func decodeBatch(body []byte) (command, error) { return decode(body, false) }

func decode(body []byte, mayHurry bool) (command, error) {
	var (
		c         command
		list, one bool
	)
	err := eachField(body, func(key string, raw json.RawMessage) error {
		switch key {
		case "user_id":
			var s string
			if !text(raw, &s) || len(s) > maxUserIDBytes {
				return Refuse(CodeParameter, "user_id: must be a string of at most %d bytes, got %s", maxUserIDBytes, Quote(string(raw)))
			}
			c.userID = &s
		case "instance_id":
			one = true
			var s string
			if !text(raw, &s) {
				return Refuse(CodeParameter, "instance_id: must be a string, got %s", Quote(string(raw)))
			}
			if !instancePattern.MatchString(s) {
				return badID("instance_id", s)
			}
			c.ids = append(c.ids, s)
		case "instance_ids":
			list = true
			var items []json.RawMessage
			if raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
				return Refuse(CodeParameter, "instance_ids: must be an array of strings, got %s", Quote(string(raw)))
			}
			if len(items) == 0 || len(items) > MaxInstances {
				return Refuse(CodeParameter, "instance_ids: must hold 1 to %d ids, got %d", MaxInstances, len(items))
			}
			return c.addAll(items)
		case "deadline":
			if !mayHurry {
				return unknownField(key)
			}
			var s string
			var err error
			if !text(raw, &s) {
				err = errors.New("no string")
			} else {
				c.deadline, err = time.Parse(time.RFC3339, s)
			}
			if err != nil || c.deadline.IsZero() {
				return Refuse(CodeParameter, "deadline: must be a time such as 2026-11-23T22:15:00Z (RFC 3339), got %s", Quote(string(raw)))
			}
			c.deadline = c.deadline.UTC()
		default:
			return unknownField(key)
		}
		return nil
	})
	switch {
	case err != nil:
		return command{}, err
	case list && one:
		return command{}, Refuse(CodeParameter, "instance_id: give it or instance_ids, not both")
	case !list && !one:
		return command{}, Refuse(CodeParameter, missingIDs)
	}
	return c, nil
}

// addAll checks the ids of a list and takes them.
func (c *command) addAll(items []json.RawMessage) error {
	seen := make(map[string]bool, len(items))
	for i, item := range items {
		var s string
		switch {
		case !text(item, &s):
			return Refuse(CodeParameter, "instance_ids[%d]: must be a string, got %s", i, Quote(string(item)))
		case !instancePattern.MatchString(s):
			return badID("instance_ids["+strconv.Itoa(i)+"]", s)
		case seen[s]:
			return Refuse(CodeParameter, "instance_ids[%d]: %s is given twice", i, Quote(s))
		}
		seen[s] = true
		c.ids = append(c.ids, s)
	}
	return nil
}

func badID(field, id string) *Error {
	return Refuse(CodeParameter, "%s: must be 1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got %s", field, Quote(id))
}

func unknownField(key string) *Error {
	return Refuse(CodeParameter, "%s: unknown field", Quote(key))
}

// text decodes a JSON string and nothing else: json.Unmarshal would take null for an empty one.
func text(raw json.RawMessage, s *string) bool {
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, s) == nil
}

// eachField calls fn for each field of the one JSON object that body must be, in order. A key given
// twice is a fault: which of the two counts differs between parsers, and so between us and a proxy
// that checks. Keys are compared exactly, where encoding/json would fold case.
func eachField(body []byte, fn func(key string, raw json.RawMessage) error) error {
	if !utf8.Valid(body) {
		return Refuse(CodeParameter, "body: is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	notJSON := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return Refuse(CodeParameter, "body: is not JSON: ends too early")
		}
		return Refuse(CodeParameter, "body: is not JSON: %v", err)
	}
	t, err := dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if t != json.Delim('{') {
		return Refuse(CodeParameter, "body: must be a JSON object, got %s", Quote(string(bytes.TrimSpace(body))))
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return notJSON(err)
		}
		key, ok := t.(string)
		if !ok { // the decoder itself refuses other keys
			return Refuse(CodeParameter, "body: a key must be a string")
		}
		if seen[key] {
			return Refuse(CodeParameter, "%s: field given twice", Quote(key))
		}
		seen[key] = true
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return notJSON(err)
		}
		if err := fn(key, raw); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Refuse(CodeParameter, "body: goes on after the JSON object")
	}
	return nil
}

// backupPattern is the form of the ids of backups and jobs, as far as a caller may send them.
var backupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func decodeID(key string, raw json.RawMessage, id *string) error {
	if !text(raw, id) || !backupPattern.MatchString(*id) {
		return Refuse(CodeParameter, "%s: must be an id, got %s", key, Quote(string(raw)))
	}
	return nil
}
