package auth

import (
	"bytes"
	"fmt"
	"strings"
)

// LoadAccount reads the account that looks tokens up from a file, one setting a line:
//
//	user=holdfast
//	password=...
//	domain=Default
//	project=services
//
// All four must be there; empty lines and lines that begin with # do not count. The
// value begins after the first = and goes to the end of the line. The file must have
// the permissions that Static asks for. No error repeats a value.
func LoadAccount(path string) (*Account, error) {
	data, _, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("account file: %w", err)
	}
	defer clear(data)
	var a Account
	fields := map[string]*string{"user": &a.User, "password": &a.Password, "domain": &a.Domain, "project": &a.Project}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text := strings.TrimRight(string(line), "\r\n")
		if strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#") {
			continue
		}
		key, value, _ := strings.Cut(text, "=")
		field := fields[key]
		switch {
		case field == nil:
			return nil, fmt.Errorf("account file %s:%d: must begin with user=, password=, domain= or project=", path, n)
		case *field != "":
			return nil, fmt.Errorf("account file %s:%d: %s= is given twice", path, n, key)
		case value == "":
			return nil, fmt.Errorf("account file %s:%d: %s= has no value", path, n, key)
		}
		*field = value
	}
	for _, key := range []string{"user", "password", "domain", "project"} {
		if *fields[key] == "" {
			return nil, fmt.Errorf("account file %s: %s= is missing", path, key)
		}
	}
	return &a, nil
}
