// Package obstest is the conformance suite of obs.Store, and a store with faults for other tests.
//
// Only tests import it. It starts goroutines only inside Run, which waits for them.
package obstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// Run checks every promise of obs.Store against the stores that factory makes. Each
// call of factory gives a store that is empty and belongs to the caller, who closes
// it. Cases in except are left out, for servers that are known to break a promise.
func Run(t *testing.T, factory func(t *testing.T) obs.Store, except ...string) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, obs.Store)
	}{
		{"PutThenRead", putThenRead},
		{"PutKeepsNoReference", putKeepsNoReference},
		{"PutSameBytesAgain", putSameBytesAgain},
		{"PutOtherBytes", putOtherBytes},
		{"PutNew", putNew},
		{"PutNewOneWinner", putNewOneWinner},
		{"ReadAtRanges", readAtRanges},
		{"ReadAtUsage", readAtUsage},
		{"NotFound", notFound},
		{"Keys", keys},
		{"ListOrder", listOrder},
		{"ListPrefix", listPrefix},
		{"ListMany", listMany},
		{"ListStops", listStops},
		{"ListUsage", listUsage},
		{"Delete", deletes},
		{"DeleteMany", deleteMany},
		{"Concurrent", concurrent},
		{"Extend", extend},
		{"Canceled", canceled},
		{"Constant", constant},
	} {
		if slices.Contains(except, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			s := factory(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			c.check(t, s)
		})
	}
	t.Run("Close", func(t *testing.T) { closes(t, factory(t)) })
}

// Body makes n bytes that differ from the bytes of every other seed.
func Body(seed string, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := 0; len(out) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", seed, i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// ReadAll reads an object through Stat and ReadAt.
func ReadAll(ctx context.Context, s obs.Store, key string) ([]byte, error) {
	in, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	p := make([]byte, in.Size)
	n, err := s.ReadAt(ctx, key, p, 0)
	if err != nil {
		return nil, err
	}
	return p[:n], nil
}

func put(t *testing.T, s obs.Store, key string, body []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, body); err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
}

func holds(t *testing.T, s obs.Store, key string, want []byte) {
	t.Helper()
	got, err := ReadAll(t.Context(), s, key)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s holds %d bytes that are not the %d that were put", key, len(got), len(want))
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func list(t *testing.T, s obs.Store, prefix string) []string {
	t.Helper()
	var got []string
	for in, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List %q: %v", prefix, err)
		}
		got = append(got, in.Key)
	}
	return got
}

func putThenRead(t *testing.T, s obs.Store) {
	for _, n := range []int{0, 1, 4095, 4096, 1<<20 + 3} {
		key := fmt.Sprintf("sizes/%d", n)
		body := Body(key, n)
		put(t, s, key, body)
		in, err := s.Stat(t.Context(), key)
		if err != nil {
			t.Fatalf("Stat %s: %v", key, err)
		}
		if in.Key != key || in.Size != int64(n) {
			t.Errorf("Stat: %+v, want key %s and size %d", in, key, n)
		}
		if _, off := in.Modified.Zone(); in.Modified.IsZero() || off != 0 {
			t.Errorf("Stat %s: modified %v, want a time in UTC", key, in.Modified)
		}
		holds(t, s, key, body)
	}
}

func putKeepsNoReference(t *testing.T, s obs.Store) {
	want := Body("a", 1000)
	body := bytes.Clone(want)
	put(t, s, "a", body)
	clear(body)
	holds(t, s, "a", want)
	got, err := ReadAll(t.Context(), s, "a")
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	holds(t, s, "a", want)
}

func putSameBytesAgain(t *testing.T, s obs.Store) {
	for _, n := range []int{0, 10, 700_000} {
		key := fmt.Sprintf("again/%d", n)
		for range 3 {
			put(t, s, key, Body(key, n))
		}
		holds(t, s, key, Body(key, n))
	}
	if got := list(t, s, ""); len(got) != 3 {
		t.Errorf("List: %q, want 3 objects", got)
	}
}

func putOtherBytes(t *testing.T, s obs.Store) {
	if !s.Capabilities().ConditionalPut {
		t.Log("the store can't tell other bytes")
		return
	}
	body := Body("first", 300_000)
	last := bytes.Clone(body)
	last[len(last)-1] ^= 1
	put(t, s, "k", body)
	for name, other := range map[string][]byte{"shorter": body[:1], "longer": append(bytes.Clone(body), 0), "empty": nil, "last byte": last} {
		wantErr(t, "Put of other bytes: "+name, s.Put(t.Context(), "k", other), obs.ErrExists)
	}
	holds(t, s, "k", body)
}

func putNew(t *testing.T, s obs.Store) {
	if !s.Capabilities().ConditionalPut {
		wantErr(t, "PutNew", s.PutNew(t.Context(), "k", []byte("x")), errors.ErrUnsupported)
		if got := list(t, s, ""); len(got) != 0 {
			t.Errorf("an unsupported PutNew stored %q", got)
		}
		return
	}
	body := Body("k", 5000)
	if err := s.PutNew(t.Context(), "k", body); err != nil {
		t.Fatalf("PutNew: %v", err)
	}
	wantErr(t, "PutNew of the same bytes", s.PutNew(t.Context(), "k", body), obs.ErrExists)
	wantErr(t, "PutNew of other bytes", s.PutNew(t.Context(), "k", nil), obs.ErrExists)
	holds(t, s, "k", body)
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutNew(t.Context(), "k", []byte("x")); err != nil {
		t.Errorf("PutNew of a name that is free again: %v", err)
	}
}

func putNewOneWinner(t *testing.T, s obs.Store) {
	if !s.Capabilities().ConditionalPut {
		return
	}
	for round := range 5 {
		key := fmt.Sprintf("race/%d", round)
		var won atomic.Int64
		won.Store(-1)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				err := s.PutNew(t.Context(), key, Body(fmt.Sprint(w), 10_000))
				// allowed: the loser of a tie may be asked to come back
				for errors.Is(err, obs.ErrUnavailable) {
					err = s.PutNew(t.Context(), key, Body(fmt.Sprint(w), 10_000))
				}
				switch {
				case err == nil:
					if old := won.Swap(int64(w)); old != -1 {
						t.Errorf("%s: writers %d and %d both won", key, old, w)
					}
				case !errors.Is(err, obs.ErrExists):
					t.Errorf("%s: the loser got %v, want ErrExists", key, err)
				}
			})
		}
		wg.Wait()
		if won.Load() == -1 {
			t.Fatalf("%s: nobody won", key)
		}
		holds(t, s, key, Body(fmt.Sprint(won.Load()), 10_000))
	}
}

func readAtRanges(t *testing.T, s obs.Store) {
	const size = 10_000
	body := Body("k", size)
	put(t, s, "k", body)
	put(t, s, "empty", nil)
	for _, c := range []struct {
		key string
		off int64
		n   int
		eof bool
	}{
		{"k", 0, size, false},
		{"k", 0, 1, false},
		{"k", 1, 1, false},
		{"k", size - 1, 1, false},
		{"k", 5000, 5000, false},
		{"k", 5000, 5001, true},
		{"k", 0, size + 1, true},
		{"k", size - 1, 100, true},
		{"k", size, 1, true},
		{"k", size + 1, 1, true},
		{"k", 1 << 40, 1, true},
		{"k", 3, 0, false},
		{"empty", 0, 1, true},
		{"empty", 5, 1, true},
		{"empty", 0, 0, false},
	} {
		p := bytes.Repeat([]byte{0xEE}, c.n)
		n, err := s.ReadAt(t.Context(), c.key, p, c.off)
		var want []byte
		if c.key == "k" && c.off < size {
			want = body[c.off:min(size, c.off+int64(c.n))]
		}
		if n != len(want) || !bytes.Equal(p[:n], want) {
			t.Errorf("ReadAt %s, %d bytes from %d: got %d bytes, want %d", c.key, c.n, c.off, n, len(want))
		}
		if c.eof && err != io.EOF || !c.eof && err != nil { //nolint:errorlint // io.EOF itself
			t.Errorf("ReadAt %s, %d bytes from %d: error %v, want io.EOF: %v", c.key, c.n, c.off, err, c.eof)
		}
	}
}

func readAtUsage(t *testing.T, s obs.Store) {
	put(t, s, "k", []byte("x"))
	_, err := s.ReadAt(t.Context(), "k", make([]byte, 1), -1)
	wantErr(t, "ReadAt before the object", err, obs.ErrUsage)
}

func notFound(t *testing.T, s obs.Store) {
	put(t, s, "folder/k", []byte("x"))
	for _, key := range []string{"none", "folder", "folder/none", "folder/k/below"} {
		_, err := s.Stat(t.Context(), key)
		wantErr(t, "Stat "+key, err, obs.ErrNotFound)
		_, err = s.ReadAt(t.Context(), key, make([]byte, 1), 0)
		wantErr(t, "ReadAt "+key, err, obs.ErrNotFound)
		_, err = s.ReadAt(t.Context(), key, nil, 0)
		wantErr(t, "ReadAt of nothing of "+key, err, obs.ErrNotFound)
	}
}

// BadKeys are keys that no store takes.
func BadKeys() []string {
	return []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", ".tmp/a", ".tmp", "a b", "a\x00", "a\n",
		"ä", "a%2e", `a\b`, "a:b", "a+b", strings.Repeat("a", 256), strings.Repeat("ab/", 170) + "abc",
	}
}

func keys(t *testing.T, s obs.Store) {
	for _, key := range BadKeys() {
		wantErr(t, fmt.Sprintf("Put %q", key), s.Put(t.Context(), key, []byte("x")), obs.ErrUsage)
		wantErr(t, fmt.Sprintf("PutNew %q", key), s.PutNew(t.Context(), key, []byte("x")), obs.ErrUsage)
		_, err := s.ReadAt(t.Context(), key, make([]byte, 1), 0)
		wantErr(t, fmt.Sprintf("ReadAt %q", key), err, obs.ErrUsage)
		_, err = s.Stat(t.Context(), key)
		wantErr(t, fmt.Sprintf("Stat %q", key), err, obs.ErrUsage)
		wantErr(t, fmt.Sprintf("Delete %q", key), s.Delete(t.Context(), key), obs.ErrUsage)
		wantErr(t, fmt.Sprintf("Extend %q", key), s.Extend(t.Context(), key, time.Now()), obs.ErrUsage)
	}
	good := []string{
		"0", "-", "_", "a.b-c_d", "...", "..a", ".a", "a/.b", "b/.tmp/x", "Upper/lower", "vault.json",
		strings.Repeat("x", 255), "l" + strings.Repeat("/0123456789012345678", 25) + "/abcdefghij",
	}
	for _, key := range good {
		put(t, s, key, []byte(key))
	}
	slices.Sort(good)
	if got := list(t, s, ""); !slices.Equal(got, good) {
		t.Errorf("List: %q, want %q", got, good)
	}
	for _, key := range good {
		holds(t, s, key, []byte(key))
	}
}

func concurrent(t *testing.T, s obs.Store) {
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 6 {
				// four writers of the same bytes under each name
				key := fmt.Sprintf("c/%02d/%d", w%4, i)
				body := Body(key, 20_000)
				if err := s.Put(t.Context(), key, body); err != nil {
					t.Errorf("Put %s: %v", key, err)
					return
				}
				got, err := ReadAll(t.Context(), s, key)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("read %s: %d bytes, %v", key, len(got), err)
				}
				for _, err := range s.List(t.Context(), "c/") {
					if err != nil {
						t.Errorf("List: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, s, "c/"); len(got) != 24 {
		t.Errorf("List gave %d objects, want 24", len(got))
	}
}

func canceled(t *testing.T, s obs.Store) {
	put(t, s, "k", []byte("x"))
	why := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	check := func(what string, err error) {
		t.Helper()
		wantErr(t, what, err, context.Canceled)
		wantErr(t, what, err, why)
		if errors.Is(err, obs.ErrUnavailable) {
			t.Errorf("%s: %v is ErrUnavailable as well", what, err)
		}
	}
	check("Put", s.Put(ctx, "new", []byte("x")))
	if s.Capabilities().ConditionalPut {
		check("PutNew", s.PutNew(ctx, "new", []byte("x")))
	}
	_, err := s.ReadAt(ctx, "k", make([]byte, 1), 0)
	check("ReadAt", err)
	_, err = s.Stat(ctx, "k")
	check("Stat", err)
	check("Delete", s.Delete(ctx, "k"))
	check("Extend", s.Extend(ctx, "k", time.Now().Add(time.Hour)))
	for _, err := range s.List(ctx, "") {
		check("List", err)
	}
	holds(t, s, "k", []byte("x"))
	if got := list(t, s, ""); !slices.Equal(got, []string{"k"}) {
		t.Errorf("List: %q, want k", got)
	}
}

func constant(t *testing.T, s obs.Store) {
	caps, name := s.Capabilities(), s.String()
	if caps.Integrity == "" || name == "" {
		t.Errorf("capabilities %+v and name %q, want both told", caps, name)
	}
	put(t, s, "k", []byte("x"))
	now := s.Capabilities()
	caps.Proved, now.Proved = obs.Proved{}, obs.Proved{}
	if now != caps || s.String() != name {
		t.Errorf("capabilities or name changed: %+v, %q", s.Capabilities(), s.String())
	}
}

func closes(t *testing.T, s obs.Store) {
	put(t, s, "k", []byte("x"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, os.ErrClosed) || errors.Is(err, obs.ErrUnavailable) || errors.Is(err, obs.ErrNotFound) {
			t.Errorf("%s after Close: error %v, want os.ErrClosed and nothing else", what, err)
		}
	}
	check("Put", s.Put(t.Context(), "l", []byte("x")))
	_, err := s.ReadAt(t.Context(), "k", make([]byte, 1), 0)
	check("ReadAt", err)
	_, err = s.Stat(t.Context(), "k")
	check("Stat", err)
	check("Delete", s.Delete(t.Context(), "k"))
	n := 0
	for _, err := range s.List(t.Context(), "") {
		check("List", err)
		n++
	}
	if n != 1 {
		t.Errorf("List after Close gave %d results, want one error", n)
	}
}
