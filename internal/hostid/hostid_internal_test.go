package hostid

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func host(boot string, facts ...string) system {
	s := system{boot: boot, facts: map[string][]string{}}
	for i := 0; i+1 < len(facts); i += 2 {
		s.facts[facts[i]] = append(s.facts[facts[i]], facts[i+1])
	}
	return s
}

// TestIdentityStaysWithItsHost: it outlives reboots, facts that come and go, and nothing else.
func TestIdentityStaysWithItsHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	first, err := load(dir, host("b1", "machine-id", "m", "product-uuid", "p"))
	must(t, err)
	if len(first.ID) != 32 || !slices.Equal(first.Boots, []string{"b1"}) {
		t.Fatalf("first %+v", first)
	}
	for name, c := range map[string]struct {
		s    system
		same bool
	}{
		"the same boot":                    {host("b1", "machine-id", "m", "product-uuid", "p"), true},
		"another user, who reads less":     {host("b1", "machine-id", "m"), true},
		"a fact more":                      {host("b1", "machine-id", "m", "serial-number", "s"), true},
		"no fact at all":                   {host("b1"), true},
		"copied to other hardware":         {host("b1", "machine-id", "m", "product-uuid", "other"), false},
		"copied to another system":         {host("b1", "machine-id", "other", "product-uuid", "p"), false},
		"copied, one fact agrees":          {host("b9", "machine-id", "other"), false},
		"a fact of before, said by others": {host("b1", "product-uuid", "m"), false},
	} {
		at := t.TempDir()
		must(t, os.CopyFS(at, os.DirFS(dir)))
		got, err := load(at, c.s)
		must(t, err)
		if (got.ID == first.ID) != c.same {
			t.Errorf("%s: %s after %s", name, got.ID, first.ID)
		}
		if !c.same && slices.Contains(got.Boots, "b1") != (c.s.boot == "b1") {
			t.Errorf("%s: a new identity has the boots %q of the old one", name, got.Boots)
		}
	}
	for i := range maxBoots + 10 {
		must(t, errors.Join(func() error { _, err := load(dir, host(fmt.Sprint("boot ", i))); return err }()))
	}
	last, err := load(dir, host("last"))
	must(t, err)
	if last.ID != first.ID || len(last.Boots) != maxBoots || last.Boots[maxBoots-1] != "last" || slices.Contains(last.Boots, "b1") {
		t.Errorf("after many boots: %s, %d boots", last.ID, len(last.Boots))
	}
}

// TestCopiesWithTheSameFactsHaveOtherBoots: of two machines that only
// their history tells apart, neither lists the later boots of the other.
func TestCopiesWithTheSameFactsHaveOtherBoots(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	common := host("common", "machine-id", "m")
	_, err := load(one, common)
	must(t, err)
	must(t, os.CopyFS(two, os.DirFS(one)))
	a, err := load(one, host("a", "machine-id", "m"))
	must(t, err)
	b, err := load(two, host("b", "machine-id", "m"))
	must(t, err)
	if a.ID != b.ID || slices.Contains(a.Boots, "b") || slices.Contains(b.Boots, "a") {
		t.Errorf("%+v and %+v", a, b)
	}
}

// TestProcessesAtOnceGetOneIdentity, also when the file is not there, is damaged, or is a copy.
func TestProcessesAtOnceGetOneIdentity(t *testing.T) {
	for name, before := range map[string]string{
		"none": "", "empty": "\x00", "cut off": `{"id":"00112233445566778899aabbccddeeff","bound":{`, "no id": `{"id":"x"}`,
		"a copy": `{"id":"00112233445566778899aabbccddeeff","bound":{"machine-id":["of another"]},"boots":["z"]}`,
		"null":   `{"id":"00112233445566778899aabbccddeeff","bound":null,"boots":null}`,
	} {
		dir := t.TempDir()
		if before != "" {
			must(t, os.WriteFile(filepath.Join(dir, File), []byte(before), 0o600))
		}
		var mu sync.Mutex
		ids := map[string]bool{}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				id, err := load(dir, host("b", "machine-id", "m"))
				mu.Lock()
				defer mu.Unlock()
				if ids[id.ID] = true; err != nil || len(id.ID) != 32 || !slices.Equal(id.Boots, []string{"b"}) {
					t.Errorf("%s: %+v, %v", name, id, err)
				}
			})
		}
		all.Wait()
		if len(ids) != 1 {
			t.Errorf("%s: %d identities: %q", name, len(ids), slices.Collect(maps.Keys(ids)))
		}
	}
}

// TestFolderThatTakesNoIdentity: there is none then, or the one
// that is there, and the error says why.
func TestFolderThatTakesNoIdentity(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "taken"), 0o700))
	must(t, os.Mkdir(filepath.Join(dir, "taken", File), 0o700))
	for name, want := range map[string]error{"file": unix.ENOTDIR, "file/below": unix.ENOTDIR, "taken": nil, "/proc/holdfast": unix.ENOENT} {
		at := name
		if !filepath.IsAbs(name) {
			at = filepath.Join(dir, name)
		}
		if id, err := load(at, host("b")); err == nil || id.ID != "" || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	at := t.TempDir()
	kept, err := load(at, host("b", "machine-id", "m"))
	must(t, err)
	must(t, unix.Mount(at, at, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(at, 0)) }()
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	if id, err := load(at, host("b", "machine-id", "m")); err != nil || id.ID != kept.ID {
		t.Errorf("read only, in the same boot: %+v, %v", id, err)
	}
	if id, err := load(at, host("c", "machine-id", "m")); !errors.Is(err, unix.EROFS) || id.ID != kept.ID || slices.Contains(id.Boots, "c") {
		t.Errorf("read only, in another boot: %+v, %v", id, err)
	}
	if id, err := load(at, host("b", "machine-id", "other")); !errors.Is(err, unix.EROFS) || id.ID != "" {
		t.Errorf("read only, a copy: %+v, %v", id, err)
	}
}

// TestThisHost: it says enough of itself to be known again.
func TestThisHost(t *testing.T) {
	dir := t.TempDir()
	a, err := Load(dir)
	must(t, err)
	b, err := Load(dir)
	must(t, err)
	if a.ID != b.ID || len(a.Boots) != 1 {
		t.Errorf("%+v, then %+v", a, b)
	}
	info, err := os.Stat(filepath.Join(dir, File))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}
