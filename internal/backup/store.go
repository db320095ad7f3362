package backup

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"holdfast/internal/chunk"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// store names a chunk and sees to it that the vault has it.
func (w *worker) store(p []byte) (vault.Stored, error) { return w.storeNamed(w.namer.Name(p), p) }

// storeNamed is store for a chunk whose name is known.
func (w *worker) storeNamed(name chunk.Name, p []byte) (vault.Stored, error) {
	if loc, ok := w.p.w.Known(name); ok {
		return vault.Stored{Loc: loc}, nil
	}
	m, payload, err := w.compress(p)
	if err != nil {
		return vault.Stored{}, err
	}
	st, err := w.p.w.Add(name, m, payload, len(p))
	if err == nil && st.New {
		w.p.counts.fresh.Add(uint64(len(p)))
	}
	return st, err
}

// compress compresses a chunk at the level that is right now. The
// payload is valid until the next call.
func (w *worker) compress(p []byte) (seal.Method, []byte, error) {
	g := w.p.governor
	packs, waited, held := w.p.w.Waits()
	g.observe(time.Since(w.p.started), packs, waited, held)
	level := seal.Level(g.level.Load())
	if w.comps[level] == nil {
		var err error
		if w.comps[level], err = seal.NewCompressor(level, w.p.cutter.Params().Max); err != nil {
			return 0, nil, err
		}
	}
	g.bytes[level].Add(uint64(len(p)))
	m, payload := w.comps[level].Compress(p)
	return m, payload, nil
}

// storeAll stores the chunks of buf from from on that end at ends, and returns the place
// of each. Idle workers help. A chunk that equals the chunk before it is stored already.
func (w *worker) storeAll(buf []byte, from int, ends []int) ([]vault.Stored, error) {
	stored := make([]vault.Stored, len(ends))
	errs := make([]error, len(ends))
	same := make([]bool, len(ends))
	var last []byte
	at := from
	for i, end := range ends {
		same[i] = bytes.Equal(buf[at:end], last)
		last, at = buf[at:end], end
	}
	w.each(buf, from, ends, same, func(w *worker, i int, p []byte, _ int) {
		stored[i], errs[i] = w.store(p)
	})
	for i := range stored {
		if same[i] {
			stored[i] = stored[i-1]
		}
	}
	return stored, errors.Join(errs...)
}

// each calls do with each part of buf from from on that ends at one of ends and is
// not to be left out. Idle workers help, so that the last section of a file, and a
// file of one section, are not the work of one core. at is where the part begins.
func (w *worker) each(buf []byte, from int, ends []int, leaveOut []bool, do func(w *worker, i int, p []byte, at int)) {
	var wg sync.WaitGroup
	for i, end := range ends {
		p, at := buf[from:end], from
		from = end
		if leaveOut != nil && leaveOut[i] {
			continue
		}
		wg.Add(1)
		task := func(w *worker) {
			defer wg.Done()
			do(w, i, p, at)
		}
		select {
		case w.p.tasks <- task:
		default: // nobody is idle
			task(w)
		}
	}
	wg.Wait()
}
