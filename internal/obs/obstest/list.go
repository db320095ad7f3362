package obstest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/obs"
)

func listOrder(t *testing.T, s obs.Store) {
	// A walk of folders easily gets the order of the names around "/" wrong.
	want := []string{"a-", "a-b", "a-b/c", "a.b", "a.b/c", "a/-", "a/b", "a/b-", "a/b.c/d", "a/c/d/e", "a0", "a0/b", "aB", "a_", "aa/a", "b"}
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	for _, key := range shuffled {
		// a file store has no object at a folder's name
		if key == "a-b" || key == "a.b" || key == "a/b" || key == "a0" {
			continue
		}
		put(t, s, key, []byte(key))
	}
	want = slices.DeleteFunc(want, func(k string) bool { return k == "a-b" || k == "a.b" || k == "a/b" || k == "a0" })
	if got := list(t, s, ""); !slices.Equal(got, want) {
		t.Errorf("List: %q\nwant  %q", got, want)
	}
	for in, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if in.Size != int64(len(in.Key)) || in.Modified.IsZero() {
			t.Errorf("List: %+v, want size %d and a time", in, len(in.Key))
		}
	}
}

func listPrefix(t *testing.T, s obs.Store) {
	all := []string{"backups/a/1", "backups/a/2", "backups/a-b/1", "backups/ab/1", "packs/00/x", "packs/0a/y", "vault.json"}
	for _, key := range all {
		put(t, s, key, []byte("x"))
	}
	for _, prefix := range []string{
		"", "b", "backups", "backups/", "backups/a", "backups/a/", "backups/a/1", "backups/a-", "backups/a/1/", "packs/0",
		"packs/00/", "v", "vault.json", "vault.json/", "none", "none/", "none/none", ".x",
	} {
		var want []string
		for _, key := range all {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("List %q: %q, want %q", prefix, got, want)
		}
	}
}

func listMany(t *testing.T, s obs.Store) {
	const n = 1205 // more than a page of S3
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("many/%02x/%05d", i%3, i))
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(want, n/8+1) {
		wg.Go(func() {
			for _, key := range part {
				if err := s.Put(t.Context(), key, []byte("x")); err != nil {
					t.Errorf("Put %s: %v", key, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	slices.Sort(want)
	if got := list(t, s, "many/"); !slices.Equal(got, want) {
		t.Errorf("List gave %d objects, want %d in the order of their keys", len(got), n)
	}
	if err := s.Delete(t.Context(), want...); err != nil {
		t.Fatalf("Delete of %d: %v", n, err)
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("after Delete of all there are %d", len(got))
	}
}

func listStops(t *testing.T, s obs.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("a/%d", i), nil)
	}
	n := 0
	for range s.List(t.Context(), "") {
		if n++; n == 2 {
			break
		}
	}
	// The same sequence can be gone through again.
	seq := s.List(t.Context(), "a/")
	for range 2 {
		n = 0
		for _, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 5 {
			t.Errorf("List gave %d objects, want 5", n)
		}
	}
}

func listUsage(t *testing.T, s obs.Store) {
	for _, prefix := range []string{"/", "a//", "../", "a b", ".tmp/", "a/../", ".", "a/.."} {
		n := 0
		for _, err := range s.List(t.Context(), prefix) {
			wantErr(t, fmt.Sprintf("List %q", prefix), err, obs.ErrUsage)
			n++
		}
		if n != 1 {
			t.Errorf("List %q gave %d results, want one error", prefix, n)
		}
	}
}

func deletes(t *testing.T, s obs.Store) {
	for _, key := range []string{"a/1", "a/2", "b"} {
		put(t, s, key, []byte("x"))
	}
	for _, ks := range [][]string{nil, {"none"}, {"a/1"}, {"a/1"}, {"a/1", "none", "b"}, {"a"}, {"a/2/x"}} {
		if err := s.Delete(t.Context(), ks...); err != nil {
			t.Errorf("Delete %q: %v", ks, err)
		}
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a/2"}) {
		t.Errorf("List: %q, want a/2", got)
	}
	put(t, s, "b", []byte("other"))
	holds(t, s, "b", []byte("other"))
}

func deleteMany(t *testing.T, s obs.Store) {
	var all []string
	for i := range 40 {
		all = append(all, fmt.Sprintf("d/%02d", i))
		put(t, s, all[i], nil)
	}
	// A bad key is refused before anything goes, or after some went;
	// never is the rest lost sight of.
	wantErr(t, "Delete with a bad key", s.Delete(t.Context(), "none", "bad key"), obs.ErrUsage)
	if err := s.Delete(t.Context(), append(all, "d/none")...); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("after Delete: %q", got)
	}
}
