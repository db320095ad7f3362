package vault

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault/format"
)

// FuzzSession decodes sessions, and opens objects that
// a bucket's owner put in the place of a session.
func FuzzSession(f *testing.F) {
	b, err := encMode.Marshal(&sessionBody{Kind: kindWriter, Host: "h", Instance: "i", Begun: time.Unix(1700000000, 0).UTC(), Process: process{Boot: "b", PID: 7, Start: 9}})
	if err != nil {
		f.Fatal(err)
	}
	fuzzSmall[sessionBody](f, sessionMagic, b)
}

// FuzzCondemned is the same for condemnations.
func FuzzCondemned(f *testing.F) {
	b, err := encMode.Marshal(&condemned{Session: "s", Packs: []PackID{{1}, {2}}})
	if err != nil {
		f.Fatal(err)
	}
	fuzzSmall[condemned](f, condemnedMagic, b)
}

// FuzzForgotten is the same for marks of forgotten backups.
func FuzzForgotten(f *testing.F) {
	b, err := encMode.Marshal(&Forgotten{Host: "h", At: time.Unix(1700000000, 0).UTC(), Reason: "r"})
	if err != nil {
		f.Fatal(err)
	}
	fuzzSmall[Forgotten](f, forgottenMagic, b)
}

// FuzzHold is the same for holds.
func FuzzHold(f *testing.F) {
	b, err := encMode.Marshal(&Hold{Instance: "i", Backup: "b", Reason: "r", Begun: time.Unix(1700000000, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	fuzzSmall[Hold](f, holdMagic, b)
}

// FuzzGoing is the same for announcements of prunes.
func FuzzGoing(f *testing.F) {
	b, err := encMode.Marshal(&going{Session: "s", Backups: []string{"i/b"}})
	if err != nil {
		f.Fatal(err)
	}
	fuzzSmall[going](f, goingMagic, b)
}

func fuzzSmall[T any](f *testing.F, magic string, plain []byte) {
	v := fuzzVault(f)
	object, err := v.sealSmall("kind", magic, "id", new(T))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(object)
	f.Add([]byte(magic[:7] + "\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y T
		err := v.openSmall("kind", magic, "", "id", b, &x)
		if (err == nil) != bytes.Equal(b, object) || err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatalf("opened what nobody sealed, or an error of no class: %v", err)
		}
		if decodeSmall(b, &x) != nil {
			return
		}
		once, err := encMode.Marshal(&x)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		if err := decodeSmall(once, &y); err != nil {
			t.Fatalf("encoded, but does not decode: %v", err)
		}
		if twice, err := encMode.Marshal(&y); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("two encodings of one value: %v", err)
		}
	})
}

// FuzzPack reads objects that a bucket's owner put in the place of a pack.
func FuzzPack(f *testing.F) {
	v := fuzzVault(f)
	id := PackID{1}
	aead := v.packAEAD(id)
	pack := []byte(format.PackMagic)
	pack = append(pack, make([]byte, 100)...)
	pack = format.AppendTable(aead, pack, []Row{{Kind: Content, Off: format.PackHeader, Len: 100, Raw: 80}})
	f.Add(pack)
	f.Add(pack[:len(pack)-1])
	f.Add(append([]byte("\xff\xff\xff\xff"), format.PackEnd...))
	f.Fuzz(func(t *testing.T, b []byte) {
		st := obs.NewMemory()
		if err := st.Put(t.Context(), v.packKey(id), b); err != nil {
			t.Fatal(err)
		}
		over := *v
		over.st = st
		// Bytes before the table are not looked at.
		n := len(pack) - format.PackTrailer - format.RowSize - format.Tag
		same := len(b) == len(pack) && bytes.Equal(b[n:], pack[n:])
		if _, _, err := over.PackTable(t.Context(), id); (err == nil) != same || err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatalf("opened what nobody sealed, or an error of no class: %v", err)
		}
	})
}

// FuzzChunk opens chunks whose payload was sealed under the key, as
// a broken writer might, at a place that a recipe gives.
func FuzzChunk(f *testing.F) {
	v := fuzzVault(f)
	id := PackID{1}
	comp, err := seal.NewCompressor(seal.Fastest, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	for _, plain := range [][]byte{nil, []byte("short"), bytes.Repeat([]byte("compresses well "), 500)} {
		m, payload := comp.Compress(plain)
		f.Add(byte(m), payload, uint32(format.PackHeader), uint32(len(plain)), byte(Content))
	}
	f.Add(byte(seal.Zstd), []byte("\x28\xb5\x2f\xfd\xff"), uint32(8), uint32(1<<31), byte(Meta))
	f.Fuzz(func(t *testing.T, method byte, payload []byte, off, raw uint32, kind byte) {
		loc := Loc{Pack: id, Off: off, Len: uint32(len(payload) + seal.Overhead), Raw: raw}
		if v.checkLoc(ChunkKind(kind), loc) != nil {
			return
		}
		sealed := make([]byte, loc.Len)
		seal.Seal(v.packAEAD(id), format.Nonce(off), format.ChunkAAD(ChunkKind(kind)), seal.Method(method), payload, sealed)
		plain, err := v.Opener(id).Open(ChunkKind(kind), loc, sealed, nil)
		if err == nil && len(plain) != int(raw) || err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatalf("%d bytes, %v, want %d", len(plain), err, raw)
		}
		if cap(plain) > 2*int(raw)+4096 {
			t.Fatalf("took %d bytes for %d", cap(plain), raw)
		}
	})
}

// FuzzPageList decodes lists of pages.
func FuzzPageList(f *testing.F) {
	b, err := encMode.Marshal(&pageList{Pages: []PageRef{{Pack: PackID{1}, Off: 8, Len: 100, Raw: 200}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y pageList
		if decMode.Unmarshal(b, &x) != nil {
			return
		}
		once, err := encMode.Marshal(&x)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		if err := decMode.Unmarshal(once, &y); err != nil {
			t.Fatalf("encoded, but does not decode: %v", err)
		}
	})
}

// FuzzCatalogue reads catalogues whose blocks were sealed under the
// key, and files that somebody else put there.
func FuzzCatalogue(f *testing.F) {
	v := fuzzVault(f)
	items := []Item{{Entry: tree.Entry{Kind: tree.Dir}}, {Entry: tree.Entry{Kind: tree.File, Path: "f", Ino: 7, Ctime: tree.Time{Sec: 1, Nsec: 2}}}}
	page, err := encodePage(items)
	if err != nil {
		f.Fatal(err)
	}
	block := binary.AppendUvarint(nil, uint64(len(page)))
	f.Add(appendStats(append(block, page...), items))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var file bytes.Buffer
		w, err := v.NewCatalogue(&file, Evidence{FileSystem: "ext4", Young: time.Unix(0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.block(b), w.Close()); err != nil {
			t.Fatal(err)
		}
		r, err := v.OpenCatalogue(bytes.NewReader(file.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if e := r.Evidence(); e.FileSystem != "ext4" || e.Holds("") || e.Until(0) != (tree.Time{Nsec: 1}) {
			t.Fatalf("head: %+v", e)
		}
		if _, err := r.Next(); err != nil && !errors.Is(err, errCatalogue) && !errors.Is(err, io.EOF) {
			t.Fatalf("error of no class: %v", err)
		}
		foreign := append(append([]byte(catalogueMagic), make([]byte, 16)...), b...)
		if _, err = v.OpenCatalogue(bytes.NewReader(foreign)); !errors.Is(err, errCatalogue) {
			t.Fatalf("read what nobody sealed: %v", err)
		}
	})
}
