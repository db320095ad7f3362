package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestPagesOfHeavyItems: names and attributes that add up to more
// than a page may have end it early.
func TestPagesOfHeavyItems(t *testing.T) {
	v, _ := newVault(t)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	rec, err := w.NewRecipe(namePacks(t, w))
	must(t, err)
	value := make([]byte, 64<<10)
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 300)
	for i := range 300 {
		must(t, rec.Add(vault.Item{Entry: tree.Entry{
			Path: fmt.Sprintf("%s%03d", deep, i), Kind: tree.File, Xattrs: []tree.Xattr{{Name: "user.a", Value: value}},
		}}))
	}
	lists, err := rec.Finish()
	must(t, err)
	_, err = w.Finish(t.Context())
	must(t, err)
	n := 0
	must(t, v.Items(t.Context(), &vault.Volume{Name: "v", Lists: lists}, func(items []vault.Item) error {
		n += len(items)
		return nil
	}))
	if n != 300 {
		t.Errorf("%d items came back, want 300", n)
	}
}

// TestRecipeRefusesWhatNobodyCanRestore: no backup is better than a backup that can't be restored.
func TestRecipeRefusesWhatNobodyCanRestore(t *testing.T) {
	v, _ := newVault(t)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	defer func() { _ = w.Abort(nil) }()
	data := bytes.Repeat([]byte("z"), 1000)
	s, err := addTo(w, v.Namer().Name(data), seal.Raw, data, len(data))
	must(t, err)
	x := func(off int64) []vault.Extent { return []vault.Extent{{Off: off, Chunk: s.Loc, Len: 1000}} }
	file := func(path string, size int64, x []vault.Extent) vault.Item {
		return vault.Item{Entry: tree.Entry{Path: path, Kind: tree.File, Size: size}, Extents: x}
	}
	more := func(path string, x []vault.Extent) vault.Item {
		return vault.Item{Entry: tree.Entry{Path: path}, Continued: true, Extents: x}
	}
	for name, items := range map[string][]vault.Item{
		"beyond the end":       {file("a", 999, x(0))},
		"continued beyond":     {file("a", 1999, x(0)), more("a", x(1000))},
		"overlap":              {file("a", 3000, x(0)), more("a", x(999))},
		"continues another":    {file("a", 3000, x(0)), more("b", x(1000))},
		"continues nothing":    {more("a", nil)},
		"order":                {file("b", 0, nil), file("a", 0, nil)},
		"twice":                {file("a", 0, nil), file("a", 0, nil)},
		"no kind":              {{Entry: tree.Entry{Path: "a"}}},
		"path without measure": {file(strings.Repeat("d/", 600<<10)+"f", 0, nil)},
	} {
		rec, err := w.NewRecipe(namePacks(t, w))
		must(t, err)
		for _, it := range items {
			if err = rec.Add(it); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestFileWithTheBytesOfAPage: a page of a tree without content is easy to
// guess, so a tenant can make a file of it. Neither may be taken for the other.
func TestFileWithTheBytesOfAPage(t *testing.T) {
	v, _ := newVault(t)
	root := vault.Item{Entry: tree.Entry{Kind: tree.Dir, Mode: 0o755}}
	write := func(page []byte) (got []byte) {
		w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
		must(t, err)
		rec, err := w.NewRecipe(namePacks(t, w))
		must(t, err)
		rec.Tap = func(p []byte, _ []vault.Item) error { got = bytes.Clone(p); return nil }
		var s vault.Stored
		if page != nil {
			s, err = addTo(w, v.Namer().Name(page), seal.Raw, page, len(page))
			must(t, err)
		}
		must(t, rec.Add(root))
		lists, err := rec.Finish()
		must(t, err)
		_, err = w.Finish(t.Context())
		must(t, err)
		must(t, v.Items(t.Context(), &vault.Volume{Name: "v", Lists: lists}, func([]vault.Item) error { return nil }))
		if page != nil {
			_, err = v.ReadChunk(t.Context(), vault.Content, s.Loc)
			must(t, err)
		}
		return got
	}
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	rec, err := w.NewRecipe(namePacks(t, w))
	must(t, err)
	var page []byte
	rec.Tap = func(p []byte, _ []vault.Item) error { page = bytes.Clone(p); return nil }
	must(t, rec.Add(root))
	_, err = rec.Finish()
	must(t, err)
	_ = w.Abort(nil) // nothing of it is stored: the file comes first
	if got := write(page); !bytes.Equal(got, page) {
		t.Fatal("the same tree gave another page")
	}
	write(page)
}

// TestNewerHeader: a key that this version does not know may carry a rule that it must not ignore.
func TestNewerHeader(t *testing.T) {
	st, id := obs.NewMemory(), identity(t)
	_, err := vault.Create(t.Context(), st, "a", nil, nil, id)
	must(t, err)
	key := vault.ID("a", nil) + "/vault.json"
	replace(t, st, key, bytes.Replace(read(t, st, key), []byte(`"format":1`), []byte(`"format":1,"new":1`), 1))
	if _, err := vault.Open(t.Context(), st, "a", nil, id); !errors.Is(err, vault.ErrNewer) {
		t.Errorf("unknown key: %v", err)
	}
}

// TestResumeWithADamagedPack: a damaged pack of an earlier try must not fail every later try.
func TestResumeWithADamagedPack(t *testing.T) {
	v, st := newVault(t)
	id := vault.PackID{7}
	must(t, st.Put(t.Context(), v.Info().ID+"/packs/07/"+id.String(), bytes.Repeat([]byte("x"), 5000)))
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{Resume: []string{vault.PackRef{ID: id, Size: 5000}.String()}})
	must(t, err)
	packs, err := w.Finish(t.Context())
	if err != nil || len(packs) != 0 {
		t.Errorf("packs %v, %v", packs, err)
	}
}
