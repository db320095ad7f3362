package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/reread"
)

// maxFileBytes holds some thousand tokens.
const maxFileBytes = 1 << 20

// Static answers from a file with one token a line, as the token's hash and its holder:
//
//	# who       token                tenant               user        role
//	sha256:9f86d081884c7d65...       tenant=1008600000    user=alice  role=tenant
//	sha256:60303ae22b998861...       role=control-plane
//
// tenant and user may be left out where the role allows. Empty lines and lines that begin
// with # do not count. The owner of the file is root or the agent's user; nobody else may
// write it, and only the file's group may read it besides. A change of the file is seen
// within a second, also where it is replaced by renaming; Reload looks at once.
//
// A file that can't be read, or has a fault, lets nobody in until it is right again:
// the edit may have been made to shut somebody out. It is safe for concurrent use.
type Static struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	entries []entry
	version reread.Version
	fault   error // why entries can't be trusted; nil when they can
	checked time.Time
}

// entry is one line.
type entry struct {
	hash   [sha256.Size]byte
	caller model.Caller
}

// NewStatic reads the file at path. now is the clock (time.Now), for how often to look at the file.
func NewStatic(path string, now func() time.Time) (*Static, error) {
	s := &Static{path: path, now: now}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the file now (SIGHUP). After an error nobody is let
// in until the file is right again.
func (s *Static) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

// load reads the file. The caller holds mu.
func (s *Static) load() error {
	s.checked = s.now()
	s.entries, s.version, s.fault = readTokens(s.path)
	return s.fault
}

// Authenticate returns the holder of the token.
func (s *Static) Authenticate(ctx context.Context, token string) (model.Caller, error) {
	if err := ctx.Err(); err != nil {
		return model.Caller{}, fmt.Errorf("%w: %w", model.ErrAuthUnavailable, err)
	}
	entries, err := s.current()
	if err != nil {
		return model.Caller{}, fmt.Errorf("%w: %w", model.ErrAuthUnavailable, err)
	}
	sum := sha256.Sum256([]byte(token))
	var found *entry
	for i := range entries { // to the end, so that time does not tell which line matched
		if subtle.ConstantTimeCompare(sum[:], entries[i].hash[:]) == 1 {
			found = &entries[i]
		}
	}
	if found == nil || token == "" {
		return model.Caller{}, model.ErrUnknownToken
	}
	return found.caller, nil
}

// current gives the entries after looking whether the file changed,
// at most once in reread.Every. Entries are replaced, never changed.
func (s *Static) current() ([]entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := s.now().Sub(s.checked); since >= reread.Every || since < 0 {
		s.checked = s.now()
		info, err := os.Stat(s.path)
		if err != nil || s.fault != nil || reread.VersionOf(info) != s.version {
			_ = s.load() // kept in fault
		}
	}
	return s.entries, s.fault
}

// readSecret reads a file that only its owner can change, and only its owner and group can read.
func readSecret(path string) ([]byte, reread.Version, error) {
	// Without O_NONBLOCK a fifo at that path would hold the open for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, reread.Version{}, err
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that it can't be swapped in between
	if err != nil {
		return nil, reread.Version{}, err
	}
	v := reread.VersionOf(info)
	if err := safe(info); err != nil {
		return nil, v, fmt.Errorf("%s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, v, err
	}
	if len(data) > maxFileBytes {
		return nil, v, fmt.Errorf("%s: larger than %d bytes", path, maxFileBytes)
	}
	return data, v, nil
}

// readTokens reads and checks a file. The error lists every fault with its line.
func readTokens(path string) ([]entry, reread.Version, error) {
	data, v, err := readSecret(path)
	if err != nil {
		return nil, v, fmt.Errorf("tokens file: %w", err)
	}
	if bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}) {
		return nil, v, fmt.Errorf("tokens file %s:1: it begins with a byte order mark (EF BB BF), which an editor has put there; save the file as UTF-8 without it", path)
	}
	entries, faults := parse(data)
	if len(faults) > 0 {
		for i, fault := range faults {
			faults[i] = fmt.Errorf("tokens file %s:%w", path, fault)
		}
		return nil, v, errors.Join(faults...)
	}
	return entries, v, nil
}

// safe checks that the owner is root or the user of this process, that only the owner can
// change the file, and that only the owner and the group can read it.
func safe(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o027 != 0 {
		return fmt.Errorf("mode %04o lets others read it or the group write it; chmod g-w,o=", perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, neither root nor the agent's own", st.Uid)
	}
	return nil
}

// parse reads lines. Faults name the line ("3: ...") and never
// repeat a token that was put in as it is.
func parse(data []byte) (entries []entry, faults []error) {
	seen := map[[sha256.Size]byte]int{}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		e, err := parseLine(text)
		if err == nil {
			if first, twice := seen[e.hash]; twice {
				err = fmt.Errorf("the token of line %d again", first)
			}
			seen[e.hash] = n
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%d: %w", n, err))
			continue
		}
		entries = append(entries, e)
	}
	return entries, faults
}

func parseLine(text string) (entry, error) {
	var e entry
	fields := strings.Fields(text)
	digits, ok := strings.CutPrefix(fields[0], hashPrefix)
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil || len(sum) != len(e.hash) {
		return e, errors.New("must begin with sha256: and 64 hex digits")
	}
	copy(e.hash[:], sum)
	given := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if given[key] {
			return e, fmt.Errorf("%s= is given twice", key)
		}
		given[key] = true
		switch {
		case value == "":
			return e, errors.New("after the hash only tenant=, user= and role= with a value may stand")
		case key == "tenant":
			e.caller.Tenant = value
		case key == "user":
			e.caller.User = value
		case key == "role":
			e.caller.Role = model.Role(value)
		default:
			return e, errors.New("after the hash only tenant=, user= and role= with a value may stand")
		}
	}
	switch e.caller.Role {
	case model.RoleControlPlane, model.RoleReadOnly:
	case model.RoleOperator:
		if e.caller.Tenant != "" {
			return e, errors.New("role=operator sees every tenant, and takes no tenant=")
		}
	case model.RoleTenant:
		if e.caller.Tenant == "" {
			return e, errors.New("role=tenant needs tenant=")
		}
	case "":
		return e, errors.New("role= is missing")
	default:
		return e, errors.New("role= must be one of control-plane, operator, read-only, tenant")
	}
	return e, nil
}
