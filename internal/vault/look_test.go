package vault_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestLooks: an identity finds its looks and the looks of its copies, and no others; looks
// that it knows by name are not read, and a damaged look is reported beside the others.
func TestLooks(t *testing.T) {
	id, err := vault.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	st := obs.NewMemory()
	v, err := vault.Create(t.Context(), st, "acme", nil, []string{id.Recipient()}, id)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	put := func(identity string, l vault.Look) vault.Look {
		t.Helper()
		l.Name = v.LookName(identity)
		if err := v.PutLook(ctx, l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	nobody := func(string) bool { return false }
	if all, err := v.Looks(ctx, "one", nobody); err != nil || len(all) > 0 {
		t.Errorf("before the first: %+v, %v", all, err)
	}
	at := time.Unix(1700000000, 0).UTC()
	first := put("one", vault.Look{Life: "a", Count: 1, Host: "h", Machine: "m", At: at})
	second := put("one", vault.Look{Life: "b", Parent: "a", Count: 7, Host: "h", Machine: "n", At: at})
	put("two", vault.Look{Life: "c", Count: 1})
	all, err := v.Looks(ctx, "one", func(name string) bool { return name == first.Name })
	if err != nil || len(all) != 2 || all[0] != (vault.Look{Name: first.Name}) || all[1].Name != second.Name ||
		all[1].Life != "b" || all[1].Parent != "a" || all[1].Count != 7 || all[1].Machine != "n" || !all[1].At.Equal(at) {
		t.Errorf("%+v, %v", all, err)
	}
	prefix := v.Info().ID + "/looks/"
	damaged := v.LookName("one")
	if err := st.Put(ctx, prefix+damaged, []byte("HFLOOK\x00\x01 and no more")); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 16) + "-no-name-of-a-look"
	if err := st.Put(ctx, prefix+other, []byte("of somebody")); err != nil {
		t.Fatal(err)
	}
	all, err = v.Looks(ctx, "one", nobody)
	if !errors.Is(err, vault.ErrCorrupt) || len(all) != 2 {
		t.Errorf("beside a damaged one: %+v, %v", all, err)
	}
	if err := errors.Join(v.DeleteLooks(ctx), v.DeleteLooks(ctx, first.Name, damaged), v.DeleteLooks(ctx, first.Name)); err != nil {
		t.Fatal(err)
	}
	all, err = v.Looks(ctx, "one", nobody)
	if err != nil || len(all) != 1 || all[0].Name != second.Name {
		t.Errorf("after the removal: %+v, %v", all, err)
	}
	// A look does not open under the name of another one.
	object := make([]byte, 1<<12)
	n, _ := st.ReadAt(ctx, prefix+second.Name, object, 0)
	moved := v.LookName("one")
	if err := st.Put(ctx, prefix+moved, object[:n]); err != nil {
		t.Fatal(err)
	}
	if all, err = v.Looks(ctx, "one", nobody); !errors.Is(err, vault.ErrCorrupt) || slices.ContainsFunc(all, func(l vault.Look) bool { return l.Name == moved }) {
		t.Errorf("a look under another name: %+v, %v", all, err)
	}
	if keep := vault.Retention(prefix+second.Name, time.Hour); keep != 0 {
		t.Errorf("looks are locked for %s", keep)
	}
}
