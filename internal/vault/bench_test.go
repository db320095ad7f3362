package vault_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast/internal/seal"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// BenchmarkAdd seals chunks into packs and stores them in memory.
func BenchmarkAdd(b *testing.B) {
	v, _ := newVault(b)
	src := rand.NewChaCha8([32]byte{1})
	namer := v.Namer()
	chunks := make([][]byte, 256)
	for i := range chunks {
		chunks[i] = make([]byte, 64<<10)
		_, _ = src.Read(chunks[i])
	}
	b.SetBytes(int64(len(chunks)) * 64 << 10)
	for b.Loop() {
		w, err := v.NewWriter(b.Context(), vault.WriterOptions{})
		must(b, err)
		for _, p := range chunks {
			binary.LittleEndian.PutUint64(p, rand.Uint64()) // it is new each time
			_, err := addTo(w, namer.Name(p), seal.Raw, p, len(p))
			must(b, err)
		}
		_, err = w.Finish(b.Context())
		must(b, err)
	}
}

// BenchmarkKnown looks up chunks of which half are there.
func BenchmarkKnown(b *testing.B) {
	v, _ := newVault(b)
	w, err := v.NewWriter(b.Context(), vault.WriterOptions{})
	must(b, err)
	namer := v.Namer()
	const chunks = 20_000
	for i := range chunks {
		p := fmt.Append(nil, "chunk ", i)
		_, err := addTo(w, namer.Name(p), seal.Raw, p, len(p))
		must(b, err)
	}
	_, err = w.Finish(b.Context())
	must(b, err)
	w, err = v.NewWriter(b.Context(), vault.WriterOptions{})
	must(b, err)
	defer func() { _ = w.Abort(nil) }()
	names := make([][32]byte, 1024)
	for i := range names {
		names[i] = namer.Name(fmt.Append(nil, "chunk ", i*2*chunks/len(names)))
	}
	i, found := 0, 0
	for b.Loop() {
		if _, ok := w.Known(names[i%len(names)]); ok {
			found++
		}
		i++
	}
	if found == 0 || i > len(names) && found == i {
		b.Errorf("found %d of %d", found, i)
	}
}

// BenchmarkRecipe writes and reads the recipe of
// 20,000 files. Its bytes are the bytes of the paths.
func BenchmarkRecipe(b *testing.B) {
	v, _ := newVault(b)
	items := make([]vault.Item, 20_000)
	bytes := int64(0)
	for i := range items {
		items[i] = vault.Item{
			Entry: tree.Entry{
				Path: fmt.Sprintf("data/app-%03d/cache/%05d.bin", i/500, i), Kind: tree.File, Size: 4000, Mode: 0o600, UID: 10_000 + uint32(i/500),
				Ino: uint64(i), Mtime: tree.Time{Sec: int64(i), Nsec: uint32(i)},
			},
			Extents: []vault.Extent{{Chunk: vault.Loc{Pack: vault.PackID{byte(i >> 8)}, Off: 4096 + uint32(i/10), Len: 40_017, Raw: 40_000}, In: uint32(i % 10 * 4000), Len: 4000}},
		}
		bytes += int64(len(items[i].Path))
	}
	write := func(b *testing.B) []vault.PageRef {
		w, err := v.NewWriter(b.Context(), vault.WriterOptions{})
		must(b, err)
		rec, err := w.NewRecipe(namePacks(b, w))
		must(b, err)
		for i := range items {
			must(b, rec.Add(items[i]))
		}
		lists, err := rec.Finish()
		must(b, err)
		_, err = w.Finish(b.Context())
		must(b, err)
		return lists
	}
	b.Run("write", func(b *testing.B) {
		b.SetBytes(bytes)
		for round := int64(0); b.Loop(); round++ {
			for i := range items {
				items[i].Mtime.Sec = round + int64(i) // other pages than the last time
			}
			write(b)
		}
	})
	lists := write(b)
	b.Run("read", func(b *testing.B) {
		b.SetBytes(bytes)
		for b.Loop() {
			n := 0
			must(b, v.Items(b.Context(), &vault.Volume{Name: "v", Lists: lists}, func(p []vault.Item) error { n += len(p); return nil }))
			if n != len(items) {
				b.Fatalf("%d items came back", n)
			}
		}
	})
}
