package phone_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/bench/phone"
)

const size = 12 << 20

func tree(t *testing.T, o phone.Options) (string, phone.Totals) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "phone")
	totals, err := phone.Make(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, totals
}

// listing maps each path below dir to a description of the entry there.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprint(info.Mode(), " ", st.Uid)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d links, %x", st.Nlink, sha256.Sum256(content))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		}
		name, _ := filepath.Rel(dir, path)
		list[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// differ counts the paths at which two listings differ.
func differ(a, b map[string]string) int {
	n := 0
	for path, is := range a {
		if b[path] != is {
			n++
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			n++
		}
	}
	return n
}

func TestSameSeedSameTree(t *testing.T) {
	a, _ := tree(t, phone.Options{Seed: 7, Bytes: size})
	b, _ := tree(t, phone.Options{Seed: 7, Bytes: size})
	if n := differ(listing(t, a), listing(t, b)); n > 0 {
		t.Errorf("%d paths differ between two trees of one seed", n)
	}
	for _, dir := range []string{a, b} {
		if _, err := phone.Day(dir, 3); err != nil {
			t.Fatal(err)
		}
	}
	if n := differ(listing(t, a), listing(t, b)); n > 0 {
		t.Errorf("%d paths differ after the same day", n)
	}
	c, _ := tree(t, phone.Options{Seed: 8, Bytes: size})
	if shared(t, a, c) > 0 {
		t.Error("trees of two seeds have files in common")
	}
}

func TestShape(t *testing.T) {
	_, totals := tree(t, phone.Options{Seed: 1, Bytes: size})
	all := float64(totals.AllBytes())
	if all < 0.95*size || all > 1.05*size {
		t.Errorf("the files have %.0f bytes, want %d", all, size)
	}
	for kind, want := range map[phone.Kind]float64{phone.Packed: 0.40, phone.Code: 0.30, phone.Database: 0.20, phone.Cache: 0.10} {
		if got := float64(totals.Bytes[kind]) / all; got < want-0.02 || got > want+0.02 {
			t.Errorf("%.3f of the bytes are of kind %s, want %.2f", got, kind, want)
		}
	}
	if n := totals.AllFiles(); n < size>>20*8 || n > size>>20*12 {
		t.Errorf("%d files, want about ten a MiB", n)
	}
	if totals.Files[phone.Cache] < totals.AllFiles()/2 || totals.Symlinks == 0 || totals.HardLinks == 0 {
		t.Errorf("too few cache files, symbolic or hard links: %+v", totals)
	}
}

// shared returns how many bytes of b are in files that a has too, by content.
func shared(t *testing.T, a, b string) int64 {
	t.Helper()
	have := map[[32]byte]bool{}
	contents(t, a, func(_ string, content []byte) { have[sha256.Sum256(content)] = true })
	var n int64
	contents(t, b, func(_ string, content []byte) {
		if have[sha256.Sum256(content)] {
			n += int64(len(content))
		}
	})
	return n
}

func contents(t *testing.T, dir string, fn func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		fn(path, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSiblingSharesThreeOfFiveApps(t *testing.T) {
	const size = 4 * size // so that the sizes of apps even out
	a, totals := tree(t, phone.Options{Seed: 1, Bytes: size})
	b, _ := tree(t, phone.Options{Seed: 1, Bytes: size, Instance: 1})
	apps := map[string]int{}
	for _, dir := range []string{a, b} {
		found, err := filepath.Glob(filepath.Join(dir, "app/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, app := range found {
			apps[strings.TrimPrefix(app, dir)]++
		}
	}
	both := 0
	for _, n := range apps {
		both += n / 2
	}
	if both*5 != totals.Apps*3 {
		t.Errorf("%d of %d apps are in both, want three of five", both, totals.Apps)
	}
	installed := shared(t, filepath.Join(a, "app"), filepath.Join(b, "app"))
	if part := float64(installed) / (0.56 * size); part < 0.35 || part > 0.85 {
		t.Errorf("%.2f of what is installed is in both, want about 0.6", part)
	}
	if all := shared(t, a, b); all != installed {
		t.Errorf("%d bytes are in both, want only the %d of the apps: what they keep is their own", all, installed)
	}
}

func TestDayChangesTwoPercent(t *testing.T) {
	dir, _ := tree(t, phone.Options{Seed: 1, Bytes: size})
	before := map[string][]byte{}
	var total int64
	contents(t, dir, func(path string, content []byte) {
		before[path] = content
		total += int64(len(content))
	})
	change, err := phone.Day(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	var changed int64
	contents(t, dir, func(path string, content []byte) {
		old := before[path]
		for at := 0; at < len(content); at += 4096 {
			end := min(at+4096, len(content))
			if end > len(old) || string(content[at:end]) != string(old[at:end]) {
				changed += int64(end - at)
			}
		}
	})
	if part := float64(changed) / float64(total); part < 0.015 || part > 0.027 {
		t.Errorf("a day changes %.4f of the bytes, want about 0.02", part)
	}
	if changed > change.Bytes || change.Pages == 0 || change.Replaced == 0 || change.New == 0 || change.Removed == 0 {
		t.Errorf("changed %d bytes, and the day says %+v", changed, change)
	}
}

// TestMixes: every mixture has the bytes that were asked for, mostly of its kind, and changes in
// a day.
func TestMixes(t *testing.T) {
	const size = 8 << 20
	for mix, kind := range map[phone.Mix]phone.Kind{
		phone.Phone: phone.Packed, phone.Databases: phone.Database, phone.Noise: phone.Packed, phone.Images: phone.Image, phone.Small: phone.Cache,
	} {
		t.Run(string(mix), func(t *testing.T) {
			dir, totals := tree(t, phone.Options{Seed: 1, Bytes: size, Mix: mix})
			if all := totals.AllBytes(); all < size*9/10 || all > size*11/10 {
				t.Errorf("%d bytes, want %d", all, size)
			}
			for other, bytes := range totals.Bytes {
				if phone.Kind(other) != kind && bytes >= totals.Bytes[kind] {
					t.Errorf("%d bytes are of kind %s, and %d of kind %s", bytes, phone.Kind(other), totals.Bytes[kind], kind)
				}
			}
			if average := totals.AllBytes() / int64(totals.AllFiles()); mix == phone.Small && average > 4<<10 {
				t.Errorf("a small file has %d bytes on average", average)
			}
			change, err := phone.Day(dir, 1)
			if err != nil {
				t.Fatal(err)
			}
			if change.Bytes < size/200 || change.Bytes > size/10 {
				t.Errorf("a day changes %d bytes of %d", change.Bytes, size)
			}
		})
	}
	if len(phone.Mixes) != 5 {
		t.Errorf("mixtures are not tested: %v", phone.Mixes)
	}
	if _, err := phone.Make(filepath.Join(t.TempDir(), "a"), phone.Options{Mix: "music"}); err == nil {
		t.Error("a mixture that is none passes")
	}
}
