package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// How the needed chunks of sparse packs are moved. It goes round by round: chunks are stored
// in new packs, which are read back; the relocations of the old packs are put; the prune looks
// for its writer's session; and only then the old packs are deleted. A crash leaves packs that
// no manifest names, or relocations of packs that are still there and stay condemned.

// packsOfRound is how many new packs a round fills.
const packsOfRound = 64

// rewrite is one round.
type rewrite struct {
	p     *prune
	s     *Session // of a writer, so that other prunes wait until the new packs have relocations
	w     *Writer
	packs []*rewritten
	bytes int64
	names []string // of the relocations that were put
	sent  bool     // a delete of an old pack
}

// rewritten is an old pack of a round.
type rewritten struct {
	at     int // place in the list
	rows   []Row
	stored []Stored // of rows
}

// compact moves the needed chunks of the sparse packs into new packs,
// and deletes the sparse packs.
func (p *prune) compact(ctx context.Context) (again bool, err error) {
	if p.sparse == nil {
		return false, nil
	}
	todo := slices.DeleteFunc(p.sparse.order, func(at int) bool { return p.sparse.at[at].closed })
	if len(todo) == 0 {
		return false, nil
	}
	o := p.options()
	s, err := p.v.putSession(ctx, kindWriter, o, observe(o).process)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.End(ctx)) }()
	for len(todo) > 0 {
		r := &rewrite{p: p, s: s}
		if todo, err = r.run(ctx, todo); err != nil {
			return false, errors.Join(err, r.withdraw(ctx))
		}
		if p.o.Progress != nil {
			p.o.Progress(p.report)
		}
	}
	return false, nil
}

// run does one round, and returns the packs that are left.
func (r *rewrite) run(ctx context.Context, todo []int) (left []int, err error) {
	v := r.p.v
	if r.w, err = v.NewWriter(ctx, WriterOptions{IndexDir: r.p.o.IndexDir, Warn: r.p.o.Warn}); err != nil {
		return nil, err
	}
	for len(todo) > 0 && r.bytes < packsOfRound*int64(v.params.Pack) {
		at := todo[0]
		todo = todo[1:]
		if err := r.store(ctx, at); err != nil {
			return nil, errors.Join(err, r.w.Abort(err))
		}
	}
	added, err := r.w.Finish(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range added {
		rows, err := v.packTable(ctx, ref.ID, ref.Size)
		if err == nil {
			_, err = v.verifyRows(ctx, ref.ID, rows)
		}
		if err != nil {
			return nil, fmt.Errorf("read back a pack that was just stored: %w", err)
		}
		r.p.report.MovedBytes += ref.Size
	}
	if err := r.relocate(ctx, added); err != nil {
		return nil, err
	}
	return todo, r.remove(ctx)
}

// store stores the needed chunks of the pack at a place anew. A pack that
// is damaged, or that lacks a chunk which a recipe names, stays as it is.
func (r *rewrite) store(ctx context.Context, at int) error {
	v, id, need := r.p.v, r.p.packs.ids[at], r.p.sparse.at[at].need
	rows, err := v.packTable(ctx, id, int64(r.p.packs.sizes[at]))
	if err == nil {
		rows = slices.DeleteFunc(rows, func(row Row) bool { return !need[row.Off] })
		if len(rows) < len(need) {
			err = &CorruptError{Object: v.packKey(id), Reason: "lacks a chunk that a recipe names"}
		}
	}
	one := &rewritten{at: at, rows: rows, stored: make([]Stored, len(rows))}
	if err == nil {
		err = r.chunks(ctx, id, one)
	}
	switch {
	case err == nil:
		r.packs = append(r.packs, one)
	case unusable(err), errors.Is(err, obs.ErrNotFound):
		r.p.o.Warn(fmt.Errorf("a pack is not rewritten: %w", err))
		r.p.sparse.leave(at)
	default:
		return err
	}
	return nil
}

// chunks reads the chunks of a pack, compares each with its name, and adds them to the writer.
func (r *rewrite) chunks(ctx context.Context, id PackID, one *rewritten) error {
	v := r.p.v
	namers := map[ChunkKind]*chunk.Namer{Content: v.Namer(), Meta: v.pageNamer()}
	for begin := 0; begin < len(one.rows); {
		first, end := one.rows[begin].Off, begin
		for ; end < len(one.rows); end++ {
			row := one.rows[end]
			if err := v.checkLoc(row.Kind, Loc{Pack: id, Off: row.Off, Len: row.Len, Raw: row.Raw}); err != nil {
				return err
			}
			before := one.rows[max(end-1, begin)]
			if end > begin && (row.Off-before.Off-before.Len > runGap || row.Off+row.Len-first > verifyRun) {
				break
			}
		}
		last := one.rows[end-1]
		run := make([]byte, last.Off+last.Len-first)
		if err := v.ReadRun(ctx, id, run, first); err != nil {
			return err
		}
		for i := begin; i < end; i++ {
			row := one.rows[i]
			if err := r.chunk(ctx, id, row, run[row.Off-first:][:row.Len], namers[row.Kind], &one.stored[i]); err != nil {
				return err
			}
		}
		begin = end
	}
	return nil
}

// chunk compares a chunk with its name, and adds it to the writer as it was compressed.
func (r *rewrite) chunk(ctx context.Context, id PackID, row Row, sealed []byte, namer *chunk.Namer, out *Stored) error {
	v := r.p.v
	loc := Loc{Pack: id, Off: row.Off, Len: row.Len, Raw: row.Raw}
	plain, err := v.Opener(id).Open(row.Kind, loc, slices.Clone(sealed), nil)
	if err != nil { // perhaps the bytes changed on their way
		if err := v.ReadRun(obs.Afresh(ctx), id, sealed, row.Off); err != nil {
			return err
		}
		plain, err = v.Opener(id).Open(row.Kind, loc, slices.Clone(sealed), nil)
	}
	if err != nil {
		return err
	}
	if namer == nil || namer.Name(plain) != row.Name {
		return &CorruptError{Object: v.packKey(id), Reason: fmt.Sprintf("chunk at byte %d has content of another name", row.Off)}
	}
	method, payload, err := seal.OpenPayload(v.packAEAD(id), format.Nonce(row.Off), format.ChunkAAD(row.Kind), sealed, sealed[:0])
	if err != nil {
		return &CorruptError{Object: v.packKey(id), Reason: fmt.Sprintf("chunk at byte %d %s", row.Off, err)}
	}
	r.bytes += int64(row.Len)
	if row.Kind == Meta { // together, so that pages are read with few requests
		return r.w.AddMeta(row.Name, method, payload, int(row.Raw), out)
	}
	*out, err = r.w.Add(row.Name, method, payload, int(row.Raw))
	return err
}

// relocate puts the relocations of the old packs, and then looks for the session: if it is gone,
// another prune may have deleted the new packs. A condemnation of a pack that has a relocation
// stays: a backup that used other chunks of the pack would lose them when the pack goes.
func (r *rewrite) relocate(ctx context.Context, added []PackRef) error {
	sizes := make(map[PackID]int64, len(added))
	for _, ref := range added {
		sizes[ref.ID] = ref.Size
	}
	p := r.p
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	var moved []*rewritten
	for _, one := range r.packs {
		body, ok := one.body(int64(p.packs.sizes[one.at]), sizes)
		if !ok {
			p.sparse.leave(one.at)
			continue
		}
		moved = append(moved, one)
		id := p.packs.ids[one.at]
		name := movedName(id)
		p.deleting = true
		r.names = append(r.names, name)
		p.moves.read[name], p.moves.to[id] = id, append(p.moves.to[id], body.to())
		g.Go(func() error { return p.v.putMoved(gctx, name, body) })
	}
	r.packs = moved
	if err := g.Wait(); err != nil {
		return err
	}
	there, err := p.v.sessionThere(ctx, r.s.id)
	if err == nil && !there {
		err = fmt.Errorf("%w while chunks were moved, so the new packs may be lost: the old packs stay", ErrSessionGone)
	}
	return err
}

// body is the relocation of an old pack. false says that the vault had a chunk of it already in
// other bytes, which can't stand for the old ones.
func (one *rewritten) body(size int64, sizes map[PackID]int64) (*movedBody, bool) {
	b := &movedBody{Size: size, Packs: []PackRef{}}
	numbers := map[PackID]int{}
	for i, row := range one.rows {
		to := one.stored[i].Loc
		n, known := numbers[to.Pack]
		if !known {
			n = len(b.Packs)
			numbers[to.Pack] = n
			b.Packs = append(b.Packs, PackRef{ID: to.Pack, Size: sizes[to.Pack]})
		}
		if to.Len != row.Len || sizes[to.Pack] == 0 {
			return nil, false
		}
		b.Rows = appendMoved(b.Rows, row.Off, row.Len, row.Kind, n, to.Off)
	}
	return b, true
}

// remove deletes the old packs.
func (r *rewrite) remove(ctx context.Context) error {
	r.sent = true
	for some := range slices.Chunk(r.packs, deletedAtOnce) {
		places := make([]int, len(some))
		for i, one := range some {
			places[i] = one.at
			r.p.sparse.done[r.p.packs.ids[one.at]] = true
		}
		before := r.p.report.Deleted
		if err := r.p.deleteSome(ctx, places); err != nil {
			return err
		}
		r.p.report.Moved += r.p.report.Deleted - before
	}
	return nil
}

// withdraw takes the relocations of a failed round away, so that the new packs go with the next
// prune. Once a delete of an old pack was sent, they stay.
func (r *rewrite) withdraw(ctx context.Context) error {
	if r.sent || len(r.names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	keys := make([]string, len(r.names))
	for i, name := range r.names {
		keys[i] = r.p.v.movedPrefix() + name
	}
	if err := r.p.v.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("take the relocations of packs back: %w", err)
	}
	return nil
}
