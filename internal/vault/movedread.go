package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// maxMoves bounds how often the chunks of one pack were moved, one time after the other.
const maxMoves = 64

// ReadRun fills p with the bytes of a pack that begin at off: neighbouring chunks in one request.
// Where a prune has moved the chunks of the pack into other packs, ReadRun fetches each chunk that
// lies in p as a whole from there, and seals it as it was in the old pack; bytes that belong to no
// such chunk are 0.
func (v *Vault) ReadRun(ctx context.Context, id PackID, p []byte, off uint32) error {
	return v.readRun(ctx, id, p, off, 0)
}

// readRun is ReadRun for a pack behind that many relocations.
func (v *Vault) readRun(ctx context.Context, id PackID, p []byte, off uint32, moves int) error {
	if _, known := v.moves.get(id); known {
		if err := v.readMovedRun(ctx, id, p, off, moves); err == nil || !errors.Is(err, ErrCorrupt) {
			return err
		}
		v.moves.forget(id) // another prune may have moved the chunks once more
	}
	key := v.packKey(id)
	n, err := v.st.ReadAt(ctx, key, p, int64(off))
	if n == len(p) {
		return nil
	}
	if !errors.Is(err, obs.ErrNotFound) {
		return readError(key, n, len(p), int64(off), err)
	}
	switch all, rerr := v.relocationsOf(ctx, id); {
	case rerr != nil:
		return rerr
	case len(all) == 0:
		return readError(key, n, len(p), int64(off), err)
	}
	return v.readMovedRun(ctx, id, p, off, moves)
}

// readMovedRun is readRun of a pack that has relocations. Several prunes may have moved the
// chunks of the pack, and one of them may have ended before all its packs were stored. So each
// chunk comes from the first relocation from which the chunk can be read. A chunk that no
// relocation gives stays 0, so it does not open; an error says that no chunk could be read.
func (v *Vault) readMovedRun(ctx context.Context, id PackID, p []byte, off uint32, moves int) error {
	if moves == maxMoves {
		return &CorruptError{Object: v.packKey(id), Reason: fmt.Sprintf("its chunks were moved more than %d times", maxMoves)}
	}
	all, err := v.relocationsOf(ctx, id)
	if err != nil {
		return err
	}
	clear(p)
	got := map[uint32]bool{}
	var failed error
	for _, r := range all {
		for _, run := range r.runs(off, len(p), got) {
			m := movedRun{v: v, old: id, chunks: run, p: p, off: off, moves: moves}
			switch err := m.read(ctx, got); {
			case err == nil:
			case errors.Is(err, ErrCorrupt):
				failed = err
			default:
				return err
			}
		}
	}
	if len(got) > 0 {
		return nil
	}
	return failed
}

// runs returns the chunks that lie in n bytes of the old pack from off on as a whole, without the
// chunks in got, in groups that lie side by side in a new pack.
func (r *relocation) runs(off uint32, n int, got map[uint32]bool) (all [][]movedChunk) {
	end := uint64(off) + uint64(n)
	for i := r.from(off); i < r.rows(); i++ {
		c := r.row(i)
		if uint64(c.off)+uint64(c.sealed) > end {
			break
		}
		if got[c.off] {
			continue
		}
		if k := len(all) - 1; k >= 0 {
			if last := all[k][len(all[k])-1]; last.pack == c.pack && last.to+last.sealed == c.to {
				all[k] = append(all[k], c)
				continue
			}
		}
		all = append(all, []movedChunk{c})
	}
	return all
}

// movedRun are chunks that lie side by side in a new pack, and the bytes that readRun fills.
type movedRun struct {
	v      *Vault
	old    PackID
	chunks []movedChunk
	p      []byte // of the old pack, from off on
	off    uint32
	moves  int
}

// read puts the chunks into p as they were in the old pack, and notes each of them in got. The
// error tells of a chunk that could not be read.
func (m *movedRun) read(ctx context.Context, got map[uint32]bool) (failed error) {
	first, last := m.chunks[0], m.chunks[len(m.chunks)-1]
	buf := make([]byte, last.to+last.sealed-first.to)
	if err := m.v.readRun(ctx, first.pack, buf, first.to, m.moves+1); err != nil {
		return err
	}
	from, to := m.v.packAEAD(first.pack), m.v.packAEAD(m.old)
	for _, c := range m.chunks {
		sealed := buf[c.to-first.to:][:c.sealed]
		method, payload, err := seal.OpenPayload(from, format.Nonce(c.to), format.ChunkAAD(c.kind), sealed, nil)
		if err != nil { // perhaps the bytes changed on their way
			if err := m.v.readRun(obs.Afresh(ctx), c.pack, sealed, c.to, m.moves+1); err != nil {
				return err
			}
			method, payload, err = seal.OpenPayload(from, format.Nonce(c.to), format.ChunkAAD(c.kind), sealed, nil)
		}
		if err != nil {
			failed = &CorruptError{Object: m.v.packKey(c.pack), Reason: fmt.Sprintf("chunk at byte %d %s", c.to, err)}
			continue
		}
		at := c.off - m.off
		seal.Seal(to, format.Nonce(c.off), format.ChunkAAD(c.kind), method, payload, m.p[at:][:c.sealed])
		got[c.off] = true
	}
	return failed
}
