package vault

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/index"
)

// WriterOptions say how a Writer works.
type WriterOptions struct {
	// Buffers is the memory for packs, filling and on their way
	// together; nil is room for two of its own.
	Buffers *Buffers
	// Intent is called before a pack is sent, with its id and size as PackRef.String
	// writes them, and must make that text durable, so that a later try finds this
	// try's packs (see Resume). Nil when nobody resumes. Called from any goroutine.
	Intent func(pack string) error
	// Resume names packs that an earlier try meant to send,
	// as Intent was told. Packs that the store has are used.
	Resume []string
	// Background says that others who share Buffers go before this Writer.
	Background bool
	// Looks is the knowledge of this Writer's session
	// about packs in the store. Nil begins with nothing.
	Looks *PackLooks
	// Without names condemned packs (Session.Condemned): their content is stored anew.
	Without []PackID
	// Lost names packs that the store does not have any more. Their
	// content is stored anew too, and Tidy takes them out of the index.
	Lost []PackID
	// IndexDir is a folder of this host with the indexes of all vaults; any number of processes may
	// use it. "" fetches the index for this Writer alone. The folder may be deleted at any time.
	IndexDir string
	// Warn is told about faults of the index, from any goroutine:
	// chunks that it would have found are stored anew. Nil is allowed.
	Warn func(error)
	// Confirmed is called by Finish with the packs that this writer added, once the store confirmed
	// all of them, beside the storing of the index. Its error is Finish's. Nil is allowed.
	Confirmed func(ctx context.Context, added []PackRef) error
	// Sent is told of every pack that the store confirmed, with its size. Nil is allowed.
	Sent func(id PackID, bytes int64)
}

// Stored is the result of adding a chunk.
type Stored struct {
	Loc Loc
	New bool // false when the vault had it already
}

// Writer adds chunks to the vault: it fills packs and uploads them while others are filled. Add
// and Known may be called from any number of goroutines. It ends with Finish or with Abort, one
// of which must be called. Before Finish returned nil, a crash leaves packs that no backup names.
type Writer struct {
	v    *Vault
	opts WriterOptions
	idx  *index.Index

	buffers *buffers

	uploads *contain.Group
	ctx     context.Context // ends when an upload failed; the group's, for the life of the Writer
	cancel  context.CancelCauseFunc

	begun  atomic.Int64 // packs
	waited atomic.Int64 // nanoseconds, for their buffers

	sentMu sync.Mutex      // not mu, which may be held by somebody who waits for a buffer
	packs  []PackRef       // sent by this writer
	mine   map[PackID]bool // begun by this writer

	mu    sync.Mutex
	cur   *openPack
	pend  []pendingMeta
	named []*NamedPacks
	pendN int
	ended bool
}

// openPack is a pack being filled. Space is given out under the Writer's lock; sealing into it
// happens outside, and the last to finish after the pack was closed sends it.
type openPack struct {
	id      PackID
	aead    cipher.AEAD
	buf     []byte
	n       int
	rows    []Row
	pending atomic.Int32 // seals under way, plus one while the pack is the current one
}

type pendingMeta struct {
	name   chunk.Name
	method seal.Method
	data   []byte
	raw    int
	out    *Stored
}

// maxPackRows bounds the chunks of one pack, so that the rows
// between two segments are bounded; full packs have some hundreds.
const maxPackRows = 1 << 18

// metaRun is how many compressed bytes of Meta chunks are collected before they are placed, so that
// the pages of one recipe lie side by side and are read with few requests.
const metaRun = 2 << 20

// NewWriter returns a Writer that knows the chunks of the vault's index and of opts.Resume.
func (v *Vault) NewWriter(ctx context.Context, opts WriterOptions) (*Writer, error) {
	idx, err := v.index().Open(ctx, opts.IndexDir, slices.Concat(opts.Without, opts.Lost), opts.Warn)
	if err != nil {
		return nil, err
	}
	if opts.Looks == nil {
		opts.Looks = v.NewPackLooks()
	}
	w := &Writer{v: v, opts: opts, idx: idx, mine: map[PackID]bool{}}
	if err := w.resume(ctx); err != nil {
		idx.Close()
		return nil, err
	}
	if opts.Buffers == nil {
		opts.Buffers = NewBuffers(2)
	}
	w.buffers = opts.Buffers.use(v.bufferSize(), opts.Background)
	cctx, cancel := context.WithCancelCause(ctx)
	w.cancel = cancel
	w.uploads, w.ctx = contain.WithContext(cctx)
	return w, nil
}

// resumeInFlight is how many tables of earlier tries are read at once.
const resumeInFlight = 16

// resume adds the chunks in the packs of earlier tries. It reads the tables of packs that the
// index does not list yet, each with one request where the table is not uncommonly large.
func (w *Writer) resume(ctx context.Context) error {
	if len(w.opts.Resume) == 0 {
		return nil
	}
	todo := make(map[PackID]PackRef, len(w.opts.Resume))
	for _, s := range w.opts.Resume {
		p, err := ParsePackRef(s)
		if err != nil {
			return err
		}
		if !w.idx.Without(p.ID) { // else it is condemned or lost, and its content is stored anew
			todo[p.ID] = p
		}
	}
	w.idx.Packs(func(p PackRef) { delete(todo, p.ID) })
	var mu sync.Mutex // over changes of the index
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(resumeInFlight)
	for _, p := range todo {
		g.Go(func() error {
			rows, err := w.v.packTable(gctx, p.ID, p.Size)
			switch {
			case errors.Is(err, ErrCorrupt), errors.Is(err, obs.ErrNotFound), errors.Is(err, obs.ErrCold):
				return nil // it never arrived, or can't be used: its content is stored anew
			case err != nil:
				return fmt.Errorf("resume with pack %s: %w", p.ID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			w.idx.AddPack(p, rows)
			return nil
		})
	}
	return g.Wait()
}

// bufferSize has room for a full pack, or for a pack that holds nothing
// but the largest Meta chunk. Memory that is never touched costs nothing.
func (v *Vault) bufferSize() int {
	return v.params.Pack + format.MaxMeta + 4096
}

// Known returns where the vault, or this writer's unfinished part of it, holds the chunk
// of that name. It waits for nobody. All calls must have returned before Finish or Abort.
func (w *Writer) Known(name chunk.Name) (Loc, bool) { return w.idx.Find(name) }

// Add stores the payload, compressed by that method from raw bytes, as the
// chunk of that name, which Known did not know, or finds that another goroutine
// added it since. The bytes are copied before it returns. It blocks while all
// buffers are on their way, and fails with the cause when an upload failed.
func (w *Writer) Add(name chunk.Name, m seal.Method, payload []byte, raw int) (Stored, error) {
	return w.add(Content, name, m, payload, raw)
}

func (w *Writer) add(kind ChunkKind, name chunk.Name, m seal.Method, payload []byte, raw int) (Stored, error) {
	need := len(payload) + seal.Overhead
	w.mu.Lock()
	if loc, ok := w.idx.FindAdded(name); ok {
		w.mu.Unlock()
		return Stored{Loc: loc}, nil
	}
	if w.ended {
		w.mu.Unlock()
		return Stored{}, errors.New("add to a writer that ended")
	}
	if w.cur != nil && w.cur.n+need+format.TableRoom(len(w.cur.rows)+1) > w.v.params.Pack && len(w.cur.rows) > 0 ||
		w.cur != nil && len(w.cur.rows) == maxPackRows {
		w.closePack()
	}
	if w.cur == nil {
		if err := w.openPack(); err != nil {
			w.mu.Unlock()
			return Stored{}, err
		}
	}
	p := w.cur
	loc := Loc{Pack: p.id, Off: uint32(p.n), Len: uint32(need), Raw: uint32(raw)}
	dst := p.buf[p.n : p.n+need]
	p.n += need
	p.rows = append(p.rows, Row{Name: name, Kind: kind, Off: loc.Off, Len: loc.Len, Raw: loc.Raw})
	p.pending.Add(1)
	w.idx.Add(name, loc)
	w.mu.Unlock()

	seal.Seal(p.aead, format.Nonce(loc.Off), format.ChunkAAD(kind), m, payload, dst)
	w.release(p)
	return Stored{Loc: loc, New: true}, nil
}

// AddMeta stores a Meta chunk. Where it lies is written to *out when Finish,
// or a FlushMeta before it, returned nil: these chunks are placed in runs.
func (w *Writer) AddMeta(name chunk.Name, m seal.Method, payload []byte, raw int, out *Stored) error {
	if raw > format.MaxMeta {
		return fmt.Errorf("recipe page of %d bytes: more than the %d that the format allows", raw, format.MaxMeta)
	}
	w.mu.Lock()
	w.pend = append(w.pend, pendingMeta{name: name, method: m, data: slices.Clone(payload), raw: raw, out: out})
	w.pendN += len(payload)
	full := w.pendN >= metaRun
	w.mu.Unlock()
	if full {
		return w.FlushMeta()
	}
	return nil
}

// FlushMeta places all Meta chunks that were added so far. One
// goroutine at a time may add or flush.
func (w *Writer) FlushMeta() error {
	w.mu.Lock()
	pend := w.pend
	w.pend, w.pendN = nil, 0
	w.mu.Unlock()
	for _, p := range pend {
		s, err := w.add(Meta, p.name, p.method, p.data, p.raw)
		if err != nil {
			return err
		}
		*p.out = s
	}
	return nil
}

// openPack makes a new current pack. The lock is held: nobody could add meanwhile anyway.
func (w *Writer) openPack() error {
	start := time.Now()
	buf, err := w.buffers.take(w.ctx)
	if err != nil {
		return err
	}
	w.waited.Add(int64(time.Since(start)))
	w.begun.Add(1)
	p := &openPack{buf: buf}
	_, _ = rand.Read(p.id[:]) // crypto/rand.Read never fails
	p.aead = w.v.packAEAD(p.id)
	w.sentMu.Lock()
	w.mine[p.id] = true
	w.sentMu.Unlock()
	p.n = copy(buf, format.PackMagic)
	p.pending.Store(1)
	w.cur = p
	return nil
}

// Waits returns how many packs were begun, and how long adding waited for their buffers, all in
// all: a long time says that the store is slower than those who add. held is how many buffers
// there are packs in now: so many may be confirmed at once. It may be called at any time.
func (w *Writer) Waits() (packs int64, waited time.Duration, held int) {
	return w.begun.Load(), time.Duration(w.waited.Load()), w.buffers.count()
}

// Began tells whether the pack of a chunk that was added or known
// is this Writer's own, and so may not have reached the store.
func (w *Writer) Began(id PackID) bool {
	w.sentMu.Lock()
	defer w.sentMu.Unlock()
	return w.mine[id]
}

// closePack gives up the current pack; the lock is held.
func (w *Writer) closePack() {
	p := w.cur
	w.cur = nil
	w.idx.SizePack(PackRef{ID: p.id, Size: int64(p.n + format.TableRoom(len(p.rows)))})
	w.release(p)
	if spill := w.idx.Freeze(); spill != nil {
		w.uploads.Go(func() error { spill(); return nil })
	}
}

// release ends one claim on p, and starts its upload when it was the last.
func (w *Writer) release(p *openPack) {
	if p.pending.Add(-1) > 0 {
		return
	}
	w.uploads.Go(func() error { return w.send(p) })
}

func (w *Writer) send(p *openPack) error {
	body := format.AppendTable(p.aead, p.buf[:p.n], p.rows)
	ref := PackRef{ID: p.id, Size: int64(len(body))}
	if w.opts.Intent != nil {
		if err := w.opts.Intent(ref.String()); err != nil {
			return fmt.Errorf("note pack %s before it is sent: %w", p.id, err)
		}
	}
	begun := time.Now()
	if err := w.v.st.Put(w.ctx, w.v.packKey(p.id), body); err != nil {
		return fmt.Errorf("store pack %s: %w", p.id, err)
	}
	w.opts.Looks.confirmed(ref, begun)
	w.sentMu.Lock()
	w.packs = append(w.packs, ref)
	w.sentMu.Unlock()
	if w.opts.Sent != nil {
		w.opts.Sent(p.id, int64(len(body)))
	}
	w.buffers.give(p.buf)
	return nil
}

// Finish sends the rest, waits until the store confirmed every pack, and writes
// the index segment of the new chunks. It returns the packs that this writer
// added, without the packs of Resume. All calls of Add must have returned.
func (w *Writer) Finish(ctx context.Context) ([]PackRef, error) {
	if err := w.FlushMeta(); err != nil {
		_ = w.Abort(err) // err is the cause of its error, or the same
		return nil, err
	}
	w.mu.Lock()
	w.ended = true
	if w.cur != nil {
		w.closePack()
	}
	w.mu.Unlock()
	err := w.uploads.Wait()
	w.buffers.end() // before the index takes memory
	added := w.packs
	if err == nil {
		g, gctx := contain.WithContext(ctx)
		g.Go(func() error { return w.idx.Store(gctx) })
		if w.opts.Confirmed != nil {
			g.Go(func() error { return w.opts.Confirmed(gctx, added) })
		}
		err = g.Wait()
	} else {
		w.salvage()
	}
	for _, n := range w.named {
		n.takeSizes()
	}
	w.cancel(nil)
	w.idx.Close()
	if err != nil {
		return nil, err
	}
	return added, nil
}

// Abort stops the uploads, because of cause, waits for them, and returns the first
// error of an upload that failed before or because of it. Without opts.Intent it
// stores the index of the packs that arrived, which takes ten seconds at the most.
// All calls of Add must have returned. After Finish it does nothing.
func (w *Writer) Abort(cause error) error {
	w.cancel(cause)
	w.mu.Lock()
	before := w.ended
	w.ended = true
	w.mu.Unlock()
	err := w.uploads.Wait()
	w.buffers.end()
	if !before {
		w.salvage()
	}
	w.idx.Close()
	return err
}

// Tidy merges index segments where the vault has many small ones, and writes segments anew that
// list a lost pack. It comes after Finish; with any result, the vault is as good as before.
func (w *Writer) Tidy(ctx context.Context) error {
	if !w.idx.MergeDue() && len(w.opts.Lost) == 0 {
		return nil
	}
	return w.idx.Merge(ctx, w.opts.IndexDir, w.opts.Lost)
}
