package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/format"
	"holdfast/internal/vault/index"
	"holdfast/internal/vault/secondlook"
)

// copyJob is one object that is to be copied or compared.
type copyJob struct {
	key  string
	size int64
	// check finds faults in the bytes of the object; nil checks nothing.
	check func(ctx context.Context, body []byte) error
}

// each runs do for each job, several at once within copyMemory. do may grow and use the buffer.
func (c *copier) each(ctx context.Context, jobs []copyJob, copies int, do func(ctx context.Context, j copyJob, buf *[]byte) error) error {
	largest, bytes := int64(1), uint64(0)
	for _, j := range jobs {
		largest = max(largest, j.size)
		bytes += uint64(j.size)
	}
	c.expect(len(jobs), bytes)
	workers := max(1, min(copyInFlight, copyMemory/(largest*int64(copies)), int64(len(jobs))))
	var next atomic.Int64
	g, gctx := contain.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			var buf []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return nil
				}
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				if err := do(gctx, jobs[i], &buf); err != nil {
					return err
				}
				c.did(jobs[i].size)
			}
		})
	}
	return g.Wait()
}

// readWhole reads an object that has size bytes by a list, into buf where that has room.
func readWhole(ctx context.Context, st obs.Store, key string, size int64, buf *[]byte) ([]byte, error) {
	if size > format.MaxPack {
		return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("has %d bytes, more than the %d of any object", size, format.MaxPack)}
	}
	*buf = slices.Grow((*buf)[:0], int(size)+1)
	p := (*buf)[:size+1] // one byte more shows an object that goes on
	n, err := st.ReadAt(ctx, key, p, 0)
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return nil, err
	case n == len(p):
		return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("goes on behind the %d bytes that the store lists", size)}
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case n < int(size):
		return nil, &CorruptError{Object: key, Reason: fmt.Sprintf("is cut off: ends at byte %d, before byte %d", n, size)}
	}
	return p[:n], nil
}

// transferred is the outcome of one transfer.
type transferred int

const (
	notTransferred transferred = iota // something is wrong with the object, which is filed
	arrived
	sourceGone
)

// transfer copies one object. An error ends the copy; a fault of the object is filed.
func (c *copier) transfer(ctx context.Context, j copyJob, buf *[]byte) (transferred, error) {
	body, err := secondlook.Read(ctx, c.src.st, j.key, func(ctx context.Context) ([]byte, error) {
		body, err := readWhole(ctx, c.src.st, j.key, j.size, buf)
		if err == nil && j.check != nil {
			err = j.check(ctx, body)
		}
		return body, err
	})
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return sourceGone, nil
	case ofObject(err):
		return notTransferred, c.file(j.key, err)
	case err != nil:
		return notTransferred, fmt.Errorf("copy: source: %w", err)
	}
	err = c.dst.st.Put(ctx, j.key, body)
	if obs.Uncertain(err) {
		// Every copier puts the same bytes, so a look answers the question.
		if is, _ := compare(ctx, c.dst.st, j.key, body); is == sameBytes {
			err = nil
		}
	}
	if errors.Is(err, obs.ErrExists) {
		return notTransferred, c.file(j.key, errDiffers)
	}
	if err != nil {
		return notTransferred, fmt.Errorf("copy: destination: %w", err)
	}
	return arrived, nil
}

// errDiffers is a finding: names are written once, so one of the two sides is damaged.
var errDiffers = errors.New("the source and the destination have different bytes under this name: holdfast verify tells on which side " +
	"the object is damaged; remove the damaged object there, and copy again")

// oneObject is a store in which one object is in memory.
type oneObject struct {
	obs.Store
	key  string
	body []byte
}

// ReadAt reads the object from memory, and others from the store below.
func (s *oneObject) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if key != s.key {
		return s.Store.ReadAt(ctx, key, p, off)
	}
	return bytes.NewReader(s.body).ReadAt(p, off)
}

// Stat tells the size of the object in memory.
func (s *oneObject) Stat(ctx context.Context, key string) (obs.Info, error) {
	if key != s.key {
		return s.Store.Stat(ctx, key)
	}
	return obs.Info{Key: key, Size: int64(len(s.body))}, nil
}

// holding is the vault as it is where the object of that key has these bytes.
func (v *Vault) holding(key string, body []byte) *Vault {
	return v.in(&oneObject{v.st, key, body})
}

// packJob copies a pack. With the key each chunk of the pack is opened and compared with its name.
func (c *copier) packJob(p PackRef) copyJob {
	key := c.src.packKey(p.ID)
	return copyJob{key, p.Size, func(ctx context.Context, body []byte) error {
		if err := packForm(key, body); err != nil || c.o.Vault == nil {
			return err
		}
		v := c.src.holding(key, body)
		rows, err := v.readPackTable(ctx, p.ID, p.Size)
		if err == nil {
			_, err = v.verifyRows(ctx, p.ID, rows)
		}
		return err
	}}
}

// packForm finds faults in the unsealed parts of a pack.
func packForm(key string, body []byte) error {
	bad := func(reason string) error { return &CorruptError{Object: key, Reason: reason} }
	if len(body) < format.PackHeader+format.PackTrailer+format.Tag {
		return bad(fmt.Sprintf("has %d bytes, fewer than any pack", len(body)))
	}
	trailer := body[len(body)-format.PackTrailer:]
	table := int64(binary.LittleEndian.Uint32(trailer))
	switch {
	case string(body[:format.PackHeader]) != format.PackMagic:
		return bad("does not begin as a pack does")
	case string(trailer[4:]) != format.PackEnd:
		return bad("does not end as a pack does: cut off, or no pack of a known version")
	case table < format.Tag || table > int64(len(body)-format.PackHeader-format.PackTrailer):
		return bad("table is larger than the pack")
	}
	return nil
}

// segmentJob copies an index segment. With the key all blocks of the segment are opened.
func (c *copier) segmentJob(p PackRef) copyJob {
	id := index.SegmentID(p.ID)
	from := c.src.index()
	return copyJob{from.Key(id), p.Size, func(_ context.Context, body []byte) error {
		return from.CheckObject(id, body, c.o.Vault != nil)
	}}
}

// manifestJob copies a manifest. With the key the manifest is opened.
func (c *copier) manifestJob(ref BackupRef) copyJob {
	key := c.src.manifestKey(ref.Instance, ref.ID)
	return copyJob{key, ref.Size, func(ctx context.Context, body []byte) error {
		switch {
		case strings.HasPrefix(string(body[:min(len(body), len(manifestMagic))]), manifestMagic):
		case bytes.HasPrefix(body, []byte(manifestMagic[:6])):
			return fmt.Errorf("manifest %s: %w", key, ErrNewer)
		default:
			return &CorruptError{Object: key, Reason: "is no manifest"}
		}
		if c.o.Vault == nil {
			return nil
		}
		_, err := c.src.holding(key, body).readManifest(ctx, ref)
		return err
	}}
}
