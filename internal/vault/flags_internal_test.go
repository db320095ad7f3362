package vault

import (
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"holdfast/internal/tree"
)

// TestPageOfFlags: flags and project ids come back, a page without them has the bytes that it
// always had, and flags that this version does not know, and so could not restore, are refused.
func TestPageOfFlags(t *testing.T) {
	v := &Vault{}
	file := func(flags tree.Flags, project uint32) []Item {
		return []Item{{
			Entry:   tree.Entry{Path: "f", Kind: tree.File, Mode: 0o644, Xattrs: []tree.Xattr{{Name: "user.a", Value: []byte("v")}}, Flags: flags, Project: project},
			Extents: []Extent{},
		}}
	}
	for _, c := range []struct {
		name    string
		flags   tree.Flags
		project uint32
		page    string // "" for a page that differs
		want    error
	}{
		{"neither", 0, 0, "83f6f6818b010041661901a40000000000f6a104818246757365722e614176", nil},
		{"flags", tree.Immutable | tree.Casefold, 0, "", nil},
		{"all flags", tree.AllFlags, 0, "", nil},
		{"project", 0, 1<<32 - 1, "", nil},
		{"a flag that nobody sets (verity)", 1 << 20, 0, "", ErrNewer},
		{"every bit", ^tree.Flags(0), 1, "", ErrNewer},
	} {
		t.Run(c.name, func(t *testing.T) {
			items := file(c.flags, c.project)
			b, err := encodePage(items)
			if err != nil {
				t.Fatal(err)
			}
			if c.page != "" && hex.EncodeToString(b) != c.page {
				t.Errorf("page is %x, was %s", b, c.page)
			}
			got, err := v.decodePage(b)
			if !errors.Is(err, c.want) {
				t.Fatalf("error is %v, want %v", err, c.want)
			}
			if err == nil && !reflect.DeepEqual(got, items) {
				t.Errorf("got %+v, want %+v", got, items)
			}
		})
	}
}
