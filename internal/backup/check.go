package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// checkFile reads a piece of a file that was taken as unchanged and compares it with the vault.
func (w *worker) checkFile(ctx context.Context, e *tree.Entry, extents []vault.Extent) error {
	now := *e
	f, err := w.p.root.Open(&now, nil)
	if err = faultOf("open", e.Path, err); err != nil && !isFault(err) {
		return err
	}
	if f == nil {
		// the file changed after the walk, or can't be read now; at the walk it was unchanged
		return nil
	}
	defer f.Close() // nothing was written
	if now.Ino != e.Ino || now.Size != e.Size || now.Mtime != e.Mtime || now.Ctime != e.Ctime {
		return nil // likewise
	}
	err = w.check(ctx, newContent(f, e.Size, false), e.Path, extents[rand.IntN(len(extents))])
	if _, ok := errors.AsType[*DriftError](err); ok {
		same, uerr := w.p.root.Unchanged(e, f)
		if uerr = faultOf("stat", e.Path, uerr); uerr != nil && !isFault(uerr) {
			return uerr
		}
		if !same {
			return nil // changed after the walk
		}
	}
	return err
}

// check compares an extent of the vault with the present bytes of the
// file. It returns a *DriftError when the file has other bytes, and a
// *vault.MissingPacksError when the vault can't read the extent.
func (w *worker) check(ctx context.Context, f io.ReaderAt, path string, x vault.Extent) error {
	got := make([]byte, x.Len)
	n, err := f.ReadAt(got, x.Off)
	if isFault(err) {
		// The vault has the content, so nothing is lost, and nothing is known of the file.
		w.p.warnings.Warn(tree.Warning{Path: path, What: "a part of it that did not change could not be read for a check (" + err.Error() + ")"})
		return nil
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	got = got[:n]
	// Names tell for nothing. Part of a chunk has none, and the same
	// content may have been stored twice.
	if x.In == 0 && x.Len == x.Chunk.Raw && uint32(n) == x.Len {
		if loc, ok := w.p.w.Known(w.namer.Name(got)); ok && loc == x.Chunk {
			w.p.counts.checked.Add(1)
			return nil
		}
	}
	v := w.p.o.Vault
	want, lost, err := v.ReadChunkTwice(ctx, vault.Content, x.Chunk)
	switch {
	case lost:
		return &vault.MissingPacksError{Vault: v.Info().ID, Packs: []vault.LostPack{v.Lost(x.Chunk.Pack, err)}}
	case err != nil:
		// the store can't be reached just now, which says nothing of the file
		return context.Cause(ctx)
	}
	w.p.counts.checked.Add(1)
	if uint64(x.In)+uint64(x.Len) <= uint64(len(want)) && bytes.Equal(got, want[x.In:x.In+x.Len]) {
		return nil
	}
	return &DriftError{Instance: w.p.o.Instance, Volume: w.p.name, Path: path, By: w.p.by}
}
