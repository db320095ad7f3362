package vault

import (
	"bytes"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/tree"
	"holdfast/internal/vault/format"
)

func fuzzVault(t testing.TB) *Vault {
	t.Helper()
	return fuzzVaultWith(t, DefaultParams())
}

func fuzzVaultWith(t testing.TB, p Params) *Vault {
	t.Helper()
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := CreateWith(t.Context(), obs.NewMemory(), "fuzz", nil, nil, id, p)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// FuzzPage: whatever decodes encodes to a page that decodes to the same, and nothing crashes.
func FuzzPage(f *testing.F) {
	v := fuzzVault(f)
	loc := Loc{Pack: PackID{1}, Off: 8, Len: 100, Raw: 200}
	for _, items := range [][]Item{
		nil,
		{{Entry: tree.Entry{Kind: tree.Dir}}},
		{
			{Entry: tree.Entry{Kind: tree.File, Path: "a/b", Size: 300}, Extents: []Extent{{Off: 5, Chunk: loc, In: 1, Len: 100}}},
			{Entry: tree.Entry{Kind: tree.Symlink, Path: "a/c", Target: "x", Xattrs: []tree.Xattr{{Name: "n"}}}},
			{Entry: tree.Entry{Path: "a/c"}, Continued: true},
		},
	} {
		b, err := encodePage(items)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := v.decodePage(b)
		if err != nil {
			return
		}
		once, err := encodePage(items)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		again, err := v.decodePage(once)
		if err != nil {
			t.Fatalf("encoded, but does not decode: %v", err)
		}
		twice, err := encodePage(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("two encodings of one page: %v", err)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{}, uint32(8))
	f.Add(bytes.Repeat([]byte{17, 0, 0, 0, 1}, format.RowSize), uint32(100))
	f.Fuzz(func(t *testing.T, b []byte, end uint32) {
		rows, err := format.ParseRows(b, end)
		if err != nil {
			return
		}
		for _, r := range rows {
			if int64(r.Off)+int64(r.Len) > int64(end) {
				t.Fatalf("row %+v leaves the pack of %d bytes", r, end)
			}
		}
	})
}

// FuzzManifest decodes manifests and page lists, which share the decoder.
func FuzzManifest(f *testing.F) {
	b, err := encMode.Marshal(&Manifest{Instance: "i", ID: "x", Volumes: []Volume{{Name: "v", Lists: []PageRef{{Off: 1}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Manifest
		_ = decMode.Unmarshal(b, &m)
		var l pageList
		_ = decMode.Unmarshal(b, &l)
	})
}
