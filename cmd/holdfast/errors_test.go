package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// TestSentence: what several errors say stands in one line, and nothing is said twice.
func TestSentence(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain", "plain"},
		{"a: b\nc: d", "a: b; c: d"},
		{"a\n\nb\n", "a; b"},
		{"denied:\nrefused", "denied: refused"},
		{`read "x": read x: input/output error`, `read "x": input/output error`},
		{`read "dir/x": read /data/dir/x: input/output error`, `read "dir/x": input/output error`},
		{"/p/k: open /p/k: no such file or directory", "open /p/k: no such file or directory"},
		{"back up a: back up a: volume data: gone", "back up a: volume data: gone"},
		{"restore a to /x y/z: lstat /x y/z: gone", "restore a to /x y/z: gone"},
		{"check-volume /x: volume /x: stat /x: gone", "check-volume /x: gone"},
		{"verify: is x: it is", "verify: is x: it is"},
		{"key /k/empty: is empty", "key /k/empty: is empty"},
		{"/k/empty: is empty", "/k/empty: is empty"},
		{"restore a: read x: read y: gone", "restore a: read x: read y: gone"},
		{"open /a/bx: open /a/x: gone", "open /a/bx: open /a/x: gone"},
		{"link /a /b: link /a /b: gone", "link /a /b: gone"},
		{"two\x1b[31m: colours", `two\x1b[31m: colours`},
	} {
		if got := sentence(c.in); got != c.want {
			t.Errorf("sentence(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// doubled finds a clause that comes twice, one after the other, quoted or not.
var doubled = regexp.MustCompile(`(?:^|[ :])"?([^\s":]+)"?: (?:\w+ )?"?([^\s":]+)"?: `)

// checkMessage looks at the text of an error that a person gets to read.
func checkMessage(t *testing.T, what, stderr string) {
	t.Helper()
	if strings.Contains(stderr, `\n`) || strings.Contains(stderr, "%!") || strings.Contains(stderr, "<nil>") {
		t.Errorf("%s: %q holds what no person should read", what, stderr)
	}
	for _, m := range doubled.FindAllStringSubmatch(stderr, -1) {
		if m[1] == m[2] {
			t.Errorf("%s: %q says %q twice", what, stderr, m[1])
		}
	}
	if n := strings.Count(stderr, "no such file"); n > 1 {
		t.Errorf("%s: %q says %d times what is wrong", what, stderr, n)
	}
}

// TestKeyFilesThatAreNone: the message names the kind of the file,
// and the hint names the remedy; neither repeats the file's content.
func TestKeyFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSpace(strings.Split(string(text), "\n")[1])
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	utf16 := "\xff\xfe"
	for _, b := range []byte(secret) {
		utf16 += string([]byte{b, 0})
	}
	for name, c := range map[string]struct{ file, says, hint string }{
		"a folder":       {dir, "is a directory", "name the file in that folder"},
		"nothing":        {filepath.Join(dir, "nothing"), "no such file", "check the path"},
		"below a file":   {filepath.Join(write("file", "x"), "key"), "not a directory", "could not be read"},
		"empty":          {write("empty", ""), "is empty", "copy of the key"},
		"white space":    {write("white", " \r\n\n"), "is empty", "copy of the key"},
		"without an end": {"/dev/zero", "more than 1 MiB", "AGE-SECRET-KEY-1"},
		"encrypted":      {write("encrypted", "age-encryption.org/v1\n-> scrypt x 18\n"), "encrypted by age", "age --decrypt"},
		"armored":        {write("armored", "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n"), "encrypted by age", "age --decrypt"},
		"a recipient":    {write("recipient", id.Recipient()+"\n"), "public half", "--recipient"},
		"with a comment": {write("comment", "# public key: "+id.Recipient()+"\n"+id.Recipient()), "public half", "--recipient"},
		"an SSH key":     {write("ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\nhush-hush\n"), "another program", "key new"},
		"a plugin's":     {write("plugin", "AGE-PLUGIN-YUBIKEY-1XYZ\n"), "plugin", "key new"},
		"cut off":        {write("cut", secret[:40]+"\n"), "damaged or incomplete", "copy of the key"},
		"one letter off": {write("off", secret[:len(secret)-1]+"b1"), "damaged or incomplete", "copy of the key"},
		"UTF-16":         {write("utf16", utf16), "UTF-8", "UTF-8"},
		"something else": {write("else", "hush-hush"), "is no age identity file", "AGE-SECRET-KEY-1"},
	} {
		for _, command := range [][]string{{"list"}, {"vault", "create"}} {
			code, _, stderr := runWith(t, map[string]string{envStore: "file://" + dir, envKey: c.file}, command...)
			if code != exitConfig || !strings.Contains(stderr, c.says) || !strings.Contains(stderr, "hint: ") || !strings.Contains(stderr, c.hint) {
				t.Errorf("%s: exit %d, %q, want %q and the hint %q", name, code, stderr, c.says, c.hint)
			}
			if strings.Contains(stderr, "hush") || strings.Contains(stderr, secret[20:30]) {
				t.Errorf("%s: %q tells what is in the file", name, stderr)
			}
			checkMessage(t, name, stderr)
		}
	}
	for name, content := range map[string]string{
		"as it is made": string(text), "with CRLF": strings.ReplaceAll(string(text), "\n", "\r\n"), "with a mark": "\xef\xbb\xbf" + string(text),
		"without an end": secret, "with blanks": "  " + secret + " \n\n",
	} {
		if got, err := vault.LoadIdentity(write("good", content)); err != nil || got.Recipient() != id.Recipient() {
			t.Errorf("a key %s: %v", name, err)
		}
	}
}

// TestUnreadableKey: a key that this user may not read is not called a wrong one.
func TestUnreadableKey(t *testing.T) {
	for _, err := range []error{syscall.EACCES, syscall.EPERM} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Fatal(err)
		}
	}
	testbed.Need(t, "root")
	f := testbed.StartFUSE(t) // where even root is refused, as on NFS
	key := filepath.Join(f.Point, "key")
	if err := os.WriteFile(key, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for errno, hint := range map[syscall.Errno]string{syscall.EACCES: "run as the owner", syscall.EIO: "look at its disk"} {
		f.Set(testbed.FUSERefuses(errno, testbed.FUSEOpen))
		for flag, env := range map[string]string{"--key": envKey, "--name-key": envNameKey} {
			vars := map[string]string{envStore: "file://" + t.TempDir(), envKey: filepath.Join(t.TempDir(), "good")}
			if _, err := newKey(vars[envKey]); err != nil {
				t.Fatal(err)
			}
			vars[env] = key
			code, _, stderr := runWith(t, vars, "list")
			if code != exitConfig || !strings.Contains(stderr, errno.Error()) || !strings.Contains(stderr, "hint: ") || strings.Contains(stderr, "AGE-SECRET") {
				t.Errorf("%s, %v: exit %d, %q", flag, errno, code, stderr)
			}
			if flag == "--key" && !strings.Contains(stderr, hint) {
				t.Errorf("%v: %q, want the hint %q", errno, stderr, hint)
			}
			checkMessage(t, flag, stderr)
		}
	}
}

// TestMessagesOfAllCommands: for each wrong argument of a
// command, the message names the fault once, in one line.
func TestMessagesOfAllCommands(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	env := map[string]string{envStore: "file://" + in("store"), envKey: in("key"), "XDG_CACHE_HOME": in("cache"), "XDG_STATE_HOME": in("state")}
	for _, d := range []string{"store", "tree", "full"} {
		if err := os.Mkdir(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(in("tree/file"), []byte("x"), 0o600), os.WriteFile(in("full/file"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"key", "new", "--out", in("key")}, {"vault", "create"}, {"backup", "--instance", "a", "--snapshot", "off", in("tree")}} {
		if code, _, stderr := runWith(t, env, args...); code != exitDone {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	long := strings.Repeat("x", 300)
	for _, args := range [][]string{
		{"key", "new"},
		{"key", "new", "--out", in("none/key")},
		{"key", "new", "--out", in("tree")},
		{"key", "new", "--out", in("tree/file/key")},
		{"key", "new", "--out", "/proc/key"},
		{"key", "new", "--out", in(long)},
		{"vault", "create"},
		{"vault", "info", "--vault", "other"},
		{"vault", "rekey", "--add", "age1x"},
		{"vault", "rekey", "--remove", "age1x"},
		{"backup", "--instance", "a", in("none")},
		{"backup", "--instance", "a", in("tree/file/x")},
		{"backup", "--instance", "a", in(long)},
		{"backup", "--instance", "a", "/dev/null"},
		{"backup", "--instance", "a", dir},
		{"backup", "--instance", "a/b", in("tree")},
		{"restore", "--instance", "b", in("new")},
		{"restore", "--instance", "a", in("full")},
		{"restore", "--instance", "a", in("full/file")},
		{"restore", "--instance", "a", in("none/x")},
		{"restore", "--instance", "a", in("full/file/x")},
		{"restore", "--instance", "a", "/proc/x"},
		{"restore", "--instance", "a", in(long)},
		{"restore", "--instance", "a", "--backup", "x", in("new")},
		{"restore", "--instance", "a", "--include", "nothing", in("new")},
		{"restore", "--instance", "a", "--include", "[", in("new")},
		{"list", "--store", "file://" + in("nostore")},
		{"list", "--store", "file://" + in("key")},
		{"list", "--store", "file://" + in(long)},
		{"list", "--store", "nonsense"},
		{"list", "--store", "s3://x"},
		{"list", "--vault", "other"},
		{"list", "--name-key", in("tree")},
		{"list", "--name-key", in("none")},
		{"list", "--name-key", "/dev/zero"},
		{"list", "--key", "/dev/zero"},
		{"ls", "x", "y"},
		{"cat", "x", "y"},
		{"verify", "--read-data", "x"},
		{"check-volume", in("none")},
		{"check-volume", in(long)},
		{"status", "--socket", in("none")},
		{"status", "--socket", in("key")},
		{"jobs", "--socket", in(long)},
		{"audit", "verify", in("none")},
	} {
		code, _, stderr := runWith(t, env, args...)
		if code == exitDone || !strings.HasPrefix(stderr, "holdfast: ") {
			t.Errorf("%v: exit %d, %q", args, code, stderr)
		}
		what := strings.Join(args, " ")
		checkMessage(t, what, strings.ReplaceAll(stderr, long, "long"))
		if !strings.Contains(stderr, "\nhint: ") && !strings.Contains(what, "key new --out") && !strings.Contains(what, "/dev/null") && !strings.Contains(what, "file://"+in("key")) {
			t.Errorf("%s: %q has no hint", what, stderr)
		}
	}
}

// TestHintsFitTheirPlace: an error of a store never gets the hint
// of a local file, nor the other way round.
func TestHintsFitTheirPlace(t *testing.T) {
	for _, c := range []struct {
		err       error
		says, not string
	}{
		{&fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.EACCES}, "as root", "credentials"},
		{fmt.Errorf("put: %w: %w", obs.ErrAccess, syscall.EACCES), "", "as root"},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, "check the path", "store"},
		{fmt.Errorf("stat: %w: %w", obs.ErrNotFound, syscall.ENOENT), "", "check the path"},
		{&fs.PathError{Op: "read", Path: "/x", Err: syscall.EIO}, "dmesg", "store"},
		{fmt.Errorf("put: %w: %w", obs.ErrUnavailable, syscall.EIO), "", "dmesg"},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENAMETOOLONG}, "shorter", "store"},
		{fmt.Errorf("%w: format 2", vault.ErrNewer), "version", "damaged"},
		{fmt.Errorf("store manifest: %w; %w", obs.ErrAccess, vault.ErrMayExist), "holdfast list", "credentials"},
	} {
		_, _, hint := judge(&failure{doing: "work", err: c.err}, false)
		if !strings.Contains(hint, c.says) || strings.Contains(hint, c.not) {
			t.Errorf("%v: hint %q, want %q and not %q", c.err, hint, c.says, c.not)
		}
	}
}
