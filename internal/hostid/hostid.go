// Package hostid keeps a random identity of this host in a state
// folder, and the boots that the folder has lived through.
//
// The agent and the command line call Load, each with its own state folder, and give the result to
// the sessions of internal/vault, which judge by it whether a process of an earlier boot has ended.
// Any number of processes may call it at the same time for one folder. It starts no goroutine. A
// crash leaves the old file or the new one, and perhaps a temporary file (see internal/durable).
//
// Neither the machine id nor the name of a host is enough for that: machines that were
// cloned have both in common, and containers often have no machine id. An identity of
// our own has the same weakness when its folder is copied, so it is bound in two ways.
// It holds digests of what the hardware and the system say of themselves: where they
// say something else, the folder is a copy, and gets a new identity. And it lists the
// boots in which the folder was used: a copy that goes on with the same hardware facts
// lists the boots of its own and not those of the other, so neither judges the other.
package hostid

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// Identity is this host as a state folder knows it. The zero value is a host without
// an identity: of it nobody says after a reboot that its processes have ended.
type Identity struct {
	ID    string   // 32 hex digits
	Boots []string // ids of the boots in which the folder was used, the present one included
}

// File is the name of the file in the state folder.
const File = "host-identity.json"

const (
	lockFile = ".host-identity.lock"
	// maxBoots is how many boots are remembered, the latest.
	maxBoots = 256
	maxFile  = 1 << 20
)

// kept is what the file holds.
type kept struct {
	ID string `json:"id"`
	// by fact: hex of HMAC-SHA256 of what it says, under the id
	Bound map[string]string `json:"bound"`
	Boots []string          `json:"boots"`
}

// system is what the host says of itself.
type system struct {
	facts map[string]string // by name, those that are known
	boot  string            // id of this boot; "" where it is not known
}

// sources are the facts that differ for two machines, or two virtual machines, unless somebody
// gave both the same on purpose. Some can be read by root only, and containers lack some.
var sources = map[string]string{
	"machine-id":    "/etc/machine-id",
	"product-uuid":  "/sys/class/dmi/id/product_uuid",
	"serial-number": "/sys/firmware/devicetree/base/serial-number",
}

func look() system {
	s := system{facts: map[string]string{}}
	for name, path := range sources {
		if b, err := os.ReadFile(path); err == nil {
			if text := string(bytes.Trim(b, " \t\n\x00")); text != "" {
				s.facts[name] = text
			}
		}
	}
	s.boot = Boot()
	return s
}

// Boot returns the kernel's id of this boot of the host, which no
// other boot of any host has; "" when it can't be read.
func Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// Load returns the identity of the host from its state folder, and makes folder and identity
// where there are none. The error says why the identity could not be read or written; what is
// returned beside it may be used all the same, and is the zero value where there is no identity.
func Load(dir string) (Identity, error) {
	id, err := load(dir, look())
	if err != nil {
		return id, fmt.Errorf("identity of this host: %w", err)
	}
	return id, nil
}

func load(dir string, now system) (Identity, error) {
	path := filepath.Join(dir, File)
	if k, err := read(path); err == nil && k.fits(now) && k.has(now) {
		return k.identity(), nil // as nearly always: nothing to write
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return readOnly(path, now, err)
	}
	// Two processes that begin at once get one identity. Where the file system has no
	// locks, the worst is that one of them has an identity of which the file knows nothing.
	if unlock, err := lock(filepath.Join(dir, lockFile)); err == nil {
		defer unlock()
	}
	k, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged), err == nil && !k.fits(now):
		k = newKept()
	case err != nil:
		return Identity{}, err
	}
	if now.boot != "" && !slices.Contains(k.Boots, now.boot) {
		k.Boots = append(k.Boots, now.boot)
		k.Boots = k.Boots[max(0, len(k.Boots)-maxBoots):]
	}
	k.bind(now)
	data, err := json.Marshal(k)
	if err != nil {
		return Identity{}, err
	}
	if err := durable.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return readOnly(path, now, err)
	}
	return k.identity(), nil
}

// readOnly is the identity that a folder has that takes no file; cause is why it takes none.
func readOnly(path string, now system, cause error) (Identity, error) {
	k, err := read(path)
	if err != nil || !k.fits(now) {
		return Identity{}, cause
	}
	return k.identity(), cause
}

var errDamaged = errors.New("is damaged")

func read(path string) (kept, error) {
	var k kept
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return k, err
	}
	defer f.Close() // only read
	if info, err := f.Stat(); err != nil {
		return k, err
	} else if !info.Mode().IsRegular() || info.Size() > maxFile {
		return k, fmt.Errorf("%s is no file of an identity; remove it", path)
	}
	if err := json.NewDecoder(f).Decode(&k); err != nil {
		return kept{}, fmt.Errorf("%s %w: %w", path, errDamaged, err)
	}
	if b, err := hex.DecodeString(k.ID); err != nil || len(b) != 16 {
		return kept{}, fmt.Errorf("%s %w", path, errDamaged)
	}
	if k.Bound == nil {
		k.Bound = map[string]string{}
	}
	return k, nil
}

func newKept() kept {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return kept{ID: hex.EncodeToString(r[:]), Bound: map[string]string{}}
}

func (k kept) identity() Identity { return Identity{ID: k.ID, Boots: slices.Clone(k.Boots)} }

func (k kept) digest(name, text string) string {
	m := hmac.New(sha256.New, []byte(k.ID))
	m.Write([]byte(name + "\x00" + text))
	return hex.EncodeToString(m.Sum(nil))
}

// fits tells whether no fact contradicts the file. One that is known to
// only one of the two says nothing: not every process may read every fact.
func (k kept) fits(now system) bool {
	for name, text := range now.facts {
		if d, ok := k.Bound[name]; ok && d != k.digest(name, text) {
			return false
		}
	}
	return true
}

// has tells whether the file has all that is known now.
func (k kept) has(now system) bool {
	for name := range now.facts {
		if _, ok := k.Bound[name]; !ok {
			return false
		}
	}
	return now.boot == "" || slices.Contains(k.Boots, now.boot)
}

// bind adds the facts that the file does not have yet.
func (k kept) bind(now system) {
	for name, text := range now.facts {
		k.Bound[name] = k.digest(name, text)
	}
}

// lock takes the lock of the folder, for as long as it takes to read and write the file.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return func() { _ = f.Close() }, nil // which unlocks
}
