package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
)

// verifyInFlight is how many packs are looked at at once.
const verifyInFlight = 4

// checkPacks looks at every pack that was named, with the chunks that are named in it.
func (c *check) checkPacks(ctx context.Context) error {
	c.progress.Packs = len(c.packs)
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(verifyInFlight)
	whole := int(math.Ceil(float64(len(c.packs)) * c.o.ReadDataPercent / 100))
	var refs []chunkRef
	at := 0
	next := func() error { // gives away the gathered references to pack at
		mine, use := refs, c.packs[at]
		refs = nil
		// So many of the remaining packs are read whole: each has the same chance.
		readAll := rand.IntN(len(c.packs)-at) < whole
		if readAll {
			whole--
		}
		at++
		g.Go(func() error { return c.checkPack(gctx, use, mine, readAll) })
		return context.Cause(gctx)
	}
	err := c.named.each(func(r chunkRef) error {
		for at < int(r.pack) {
			if err := next(); err != nil {
				return err
			}
		}
		if len(refs) <= maxPackRows { // one more than a pack can have says that one is wrong
			refs = append(refs, r)
		}
		return nil
	})
	for err == nil && at < len(c.packs) {
		err = next()
	}
	if gerr := g.Wait(); gerr != nil {
		return gerr
	}
	return err
}

// checkPack looks at one pack.
func (c *check) checkPack(ctx context.Context, use packUse, refs []chunkRef, whole bool) error {
	n, chunks, err := c.pack(ctx, use, refs, whole, 0)
	c.tell(func(p *VerifyProgress) {
		p.PacksDone++
		p.BytesRead += uint64(n)
		c.report.Packs++
		c.report.Chunks += chunks
		c.report.BytesRead += uint64(n)
	})
	if err == nil {
		return nil
	}
	if err := c.found(err, c.v.packKey(use.id)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurt[use.id] = true
	return nil
}

// pack looks at a pack, or where a prune has moved its chunks, at the
// packs into which it did; moves counts these moves.
func (c *check) pack(ctx context.Context, use packUse, refs []chunkRef, whole bool, moves int) (read int64, chunks uint64, err error) {
	key := c.v.packKey(use.id)
	bad := func(format string, args ...any) (int64, uint64, error) {
		return 0, 0, &CorruptError{Object: key, Reason: fmt.Sprintf(format, args...)}
	}
	info, err := c.v.st.Stat(ctx, key)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return c.moved(ctx, use, refs, whole, moves)
	case err != nil:
		return 0, 0, err
	case info.Cold:
		return bad("is in the storage class %s, from which nothing can be read", info.Class)
	case info.Size != use.size:
		return bad("has %d bytes, the manifest says %d", info.Size, use.size)
	}
	if use.until > info.RetainUntil.Unix() && use.until > 0 {
		c.unlocked(use, info.RetainUntil)
	}
	rows, err := c.v.packTable(ctx, use.id, info.Size)
	if err != nil {
		return 0, 0, err
	}
	if len(refs) > maxPackRows {
		return bad("recipes name more than the %d chunks that a pack can have", maxPackRows)
	}
	for _, r := range refs {
		// Rows are in the order of their offsets.
		i, ok := slices.BinarySearchFunc(rows, r.off, func(row Row, off uint32) int { return int(int64(row.Off) - int64(off)) })
		if !ok || rows[i].Len != r.size || rows[i].Raw != r.raw {
			return bad("has no chunk at byte %d, which a recipe names", r.off)
		}
	}
	if !whole {
		return 0, 0, nil
	}
	magic := make([]byte, format.PackHeader)
	if err := c.v.ReadRun(ctx, use.id, magic, 0); err != nil {
		return 0, 0, err
	}
	if string(magic) != format.PackMagic {
		return bad("does not begin as a pack does")
	}
	chunks, err = c.v.verifyRows(ctx, use.id, rows)
	return info.Size, chunks, err
}

// moved looks at the packs into which the chunks of a pack were moved. Of several relocations one
// has to have all chunks that recipes name.
func (c *check) moved(ctx context.Context, use packUse, refs []chunkRef, whole bool, moves int) (read int64, chunks uint64, err error) {
	missing := &CorruptError{Object: c.v.packKey(use.id), Reason: "is missing from the store"}
	all, err := c.v.relocationsOf(ctx, use.id)
	if err != nil {
		return 0, 0, err
	}
	var failed error = missing
	for _, r := range all {
		if moves == maxMoves || r.Size != use.size {
			failed = &CorruptError{Object: c.v.movedPrefix() + r.name, Reason: "does not fit the pack"}
			continue
		}
		to := make([][]chunkRef, len(r.Packs))
		failed = nil
		for _, ref := range refs {
			i := r.from(ref.off)
			if i == r.rows() || r.row(i).off != ref.off || r.row(i).sealed != ref.size {
				failed = &CorruptError{Object: missing.Object, Reason: fmt.Sprintf("is missing from the store, and its relocation lacks the chunk at byte %d", ref.off)}
				break
			}
			to[r.number(i)] = append(to[r.number(i)], chunkRef{off: r.row(i).to, size: ref.size, raw: ref.raw})
		}
		for i := 0; i < len(to) && failed == nil; i++ {
			next := packUse{id: r.Packs[i].ID, size: r.Packs[i].Size, until: use.until, by: use.by}
			n, more, err := c.pack(ctx, next, to[i], whole, moves+1)
			read, chunks, failed = read+n, chunks+more, err
		}
		if failed == nil || !unusable(failed) {
			break
		}
	}
	if bad, ok := errors.AsType[*CorruptError](failed); ok && bad.Object != missing.Object {
		failed = &CorruptError{Object: missing.Object, Reason: fmt.Sprintf("its chunks were moved, and object %s %s", bad.Object, bad.Reason)}
	}
	return read, chunks, failed
}

// unlocked files a pack whose lock ends before the lock of a backup that needs it.
func (c *check) unlocked(use packUse, until time.Time) {
	by := c.backups[use.by]
	name, lock := by.Instance+"/"+by.ID, "has no lock"
	if !until.IsZero() {
		lock = "is locked until " + lockText(until)
	}
	c.file(c.unprotected, c.v.packKey(use.id),
		fmt.Sprintf("%s, and backup %s, which needs it, until %s: it can be deleted before", lock, name, lockText(time.Unix(use.until, 0))), name)
}

// nameBackups finds out which backups the packs that are hurt are of. No
// list of these is kept for every pack, so the manifests are read again.
func (c *check) nameBackups(ctx context.Context) error {
	if len(c.hurt) == 0 {
		return nil
	}
	for _, ref := range c.backups {
		m, err := c.v.Manifest(ctx, ref)
		if err != nil {
			if unusable(err) || errors.Is(err, ErrNoBackup) || errors.Is(err, ErrNewer) {
				continue // was found before
			}
			return err
		}
		for _, p := range m.Packs {
			if !c.hurt[p.ID] {
				continue
			}
			key := c.v.packKey(p.ID)
			for _, where := range []map[string]*Damage{c.damage, c.unread} {
				if d := where[key]; d != nil {
					d.Backups = append(d.Backups, ref.Instance+"/"+ref.ID)
				}
			}
		}
	}
	return nil
}

// verifyRun is how much of a pack is read at a time, bytes.
const verifyRun = 2 << 20

// verifyBuffers is the memory for one pack at a time: a run of the pack, and a chunk.
type verifyBuffers struct{ run, plain []byte }

var verifying = sync.Pool{New: func() any { return new(verifyBuffers) }}

// verifyRows reads the chunks of a pack and compares each with its name.
func (v *Vault) verifyRows(ctx context.Context, id PackID, rows []Row) (chunks uint64, err error) {
	aead, key := v.packAEAD(id), v.packKey(id)
	namers := map[ChunkKind]*chunk.Namer{Content: v.Namer(), Meta: v.pageNamer()}
	buf := verifying.Get().(*verifyBuffers)
	defer verifying.Put(buf)
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && (n == 0 || size+int(rows[n].Len) <= verifyRun) {
			if err := v.checkLoc(rows[n].Kind, Loc{Pack: id, Off: rows[n].Off, Len: rows[n].Len, Raw: rows[n].Raw}); err != nil {
				return chunks, err
			}
			size += int(rows[n].Len)
			n++
		}
		buf.run = slices.Grow(buf.run[:0], size)[:size]
		if err := v.ReadRun(ctx, id, buf.run, rows[0].Off); err != nil {
			return chunks, err
		}
		at := buf.run
		for _, r := range rows[:n] {
			loc := Loc{Pack: id, Off: r.Off, Len: r.Len, Raw: r.Raw}
			if buf.plain, err = format.OpenChunk(aead, key, r.Kind, loc, at[:r.Len], buf.plain); err != nil {
				buf.plain, err = v.Again(ctx, r.Kind, loc, err)
			}
			if err != nil {
				return chunks, err
			}
			if namer := namers[r.Kind]; namer == nil || namer.Name(buf.plain) != r.Name {
				return chunks, &CorruptError{Object: key, Reason: fmt.Sprintf("chunk at byte %d has content of another name", r.Off)}
			}
			at = at[r.Len:]
			chunks++
		}
		rows = rows[n:]
	}
	return chunks, nil
}
