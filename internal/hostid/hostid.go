// Package hostid keeps a random identity of this host in a state
// folder, and the boots that the folder has lived through.
//
// The agent and the command line call Load, each with its own state folder, and give the result to
// the sessions of internal/vault, which judge by it whether a process of an earlier boot has ended.
// Any number of processes may call it at the same time for one folder. It starts no goroutine. A
// crash leaves the old file or the new one, and perhaps a temporary file (see internal/durable).
//
// Neither the machine id nor the name of a host is enough for that: machines that were cloned
// have both in common, and containers often have no machine id. An identity of our own has the
// same weakness when its folder is copied, so it is bound in three ways. It holds digests of
// facts about the hardware and the system (facts.go): where two of those facts differ, the folder
// is a copy. For the agent it also holds the place of the folder, by which a copy on the same
// machine shows (Open). And it lists the boots in which the folder was used: a copy that goes on
// with the same facts lists its own boots and not the other's, so neither judges the other.
//
// A copy of the command line's folder gets a new identity (Load). The
// agent's folder holds a journal too, so there a person decides (Adopt).
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

// kept is the content of the file.
type kept struct {
	ID string `json:"id"`
	// by fact: hex of HMAC-SHA256 of each of its values, under the id
	Bound map[string][]string `json:"bound"`
	// the same of what tells the place of the folder; the command line's folder has none
	Place map[string]string `json:"place,omitempty"`
	Boots []string          `json:"boots"`
	// Shared says that another state folder of the same origin is on this machine.
	Shared bool `json:"shared,omitempty"`
	// Adopting is the identity before, while what belongs to it is being set aside.
	Adopting string `json:"adopting,omitempty"`
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

// Load returns the identity of the host from its state folder, and makes folder and
// identity where there are none, or where the folder is a copy of another host's.
// The error says why the identity could not be read or written; the identity beside
// it may be used all the same, and is the zero value where there is none.
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
	k.live(now.boot)
	k.bind(now)
	if err := k.write(path); err != nil {
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
		k.Bound = map[string][]string{}
	}
	return k, nil
}

func newKept() kept {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return kept{ID: hex.EncodeToString(r[:]), Bound: map[string][]string{}}
}

func (k kept) identity() Identity { return Identity{ID: k.ID, Boots: slices.Clone(k.Boots)} }

func (k kept) digest(name, text string) string {
	m := hmac.New(sha256.New, []byte(k.ID))
	m.Write([]byte(name + "\x00" + text))
	return hex.EncodeToString(m.Sum(nil))
}

// fits tells whether the facts belong to the host that the file was used on. A fact that
// is known to only one of the two says nothing: not every process may read every fact.
func (k kept) fits(now system) bool {
	differ, agree := k.compare(now)
	return len(differ) == 0 || len(differ) == 1 && len(agree) >= enoughFacts
}

// compare sorts the facts that both know into differing and agreeing facts.
func (k kept) compare(now system) (differ, agree []string) {
	for name, values := range now.facts {
		bound := k.Bound[name]
		switch {
		case len(bound) == 0 || len(values) == 0:
		case slices.ContainsFunc(values, func(v string) bool { return slices.Contains(bound, k.digest(name, v)) }):
			agree = append(agree, name)
		default:
			differ = append(differ, name)
		}
	}
	slices.Sort(differ)
	slices.Sort(agree)
	return differ, agree
}

// has tells whether the file has all that is known now.
func (k kept) has(now system) bool {
	for name, values := range now.facts {
		if !slices.Equal(k.Bound[name], k.digests(name, values)) {
			return false
		}
	}
	return now.boot == "" || slices.Contains(k.Boots, now.boot)
}

// bind puts the facts of now into the file. A fact that is not known now stays as it was.
func (k kept) bind(now system) {
	for name, values := range now.facts {
		k.Bound[name] = k.digests(name, values)
	}
}

func (k kept) digests(name string, values []string) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = k.digest(name, v)
	}
	slices.Sort(all)
	return all
}

// live adds the present boot to the boots of the folder.
func (k *kept) live(boot string) {
	if boot != "" && !slices.Contains(k.Boots, boot) {
		k.Boots = append(k.Boots, boot)
		k.Boots = k.Boots[max(0, len(k.Boots)-maxBoots):]
	}
}

// write replaces the file.
func (k kept) write(path string) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(data, '\n'), 0o600)
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
