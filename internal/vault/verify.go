package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"holdfast/internal/chunk"
	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// VerifyOptions say what is verified and how deep.
type VerifyOptions struct {
	Instance string // "" is all
	Backup   string // "" is all of the instance
	// ReadDataPercent of the packs, chosen at random and rounded up, are read whole, and every chunk in them is opened
	// and compared with its name; 0 to 100. The tables of all packs are opened in any case.
	ReadDataPercent float64
	// Progress is called after each step, one call at a time. Nil is allowed.
	Progress func(VerifyProgress)
}

// VerifyProgress says how far a verification is.
type VerifyProgress struct {
	Backups, BackupsDone int
	Packs, PacksDone     int
	BytesRead            uint64
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Backups   int      `json:"backups"`
	Items     uint64   `json:"items"`
	Packs     int      `json:"packs"`
	Chunks    uint64   `json:"chunks"` // read and compared with their names
	BytesRead uint64   `json:"bytes_read"`
	Damaged   []Damage `json:"damaged"` // empty when all is well
	// Incomplete are the backups that lack content since they were made. They are not damaged.
	Incomplete []IncompleteBackup `json:"incomplete"`
}

// IncompleteBackup is a backup that lacks content that nobody agreed to lose.
type IncompleteBackup struct {
	Backup string `json:"backup"` // instance/id
	Lost   uint64 `json:"lost"`   // places
}

// Damage is one thing that is not as it was stored.
type Damage struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
	// Backups that can't be restored whole because of it.
	Backups []string `json:"backups"` // none for the index, which spares new backups what is stored
}

// Verify reads manifests, recipes, pack tables and, when all backups are verified, the index, and as much
// content as asked, and reports
// what is damaged. Its error is for what kept it from looking, never for damage.
func (v *Vault) Verify(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	refs, err := v.Backups(ctx, o.Instance)
	if err != nil {
		return VerifyReport{}, err
	}
	if o.Backup != "" {
		refs = slices.DeleteFunc(refs, func(r BackupRef) bool { return r.ID != o.Backup })
	}
	if len(refs) == 0 && (o.Instance != "" || o.Backup != "") {
		return VerifyReport{}, fmt.Errorf("%w: %s %s in vault %s (%s)", ErrNoBackup, o.Instance, o.Backup, v.info.Name, v.st)
	}
	c := &check{v: v, o: o, users: map[PackID]*packUse{}, damage: map[string]*Damage{}}
	c.progress.Backups = len(refs)
	for _, ref := range refs {
		if err := c.backup(ctx, ref); err != nil {
			return c.report, err
		}
	}
	if err := c.packs(ctx); err != nil {
		return c.report, err
	}
	if o.Instance == "" && o.Backup == "" {
		// No restore needs the index, but it spares new backups what is stored.
		set, err := v.checkIndex(ctx)
		if err != nil {
			return c.report, err
		}
		set.close()
		for _, err := range set.damaged {
			_ = c.found(err) // which is a *CorruptError
		}
	}
	for _, d := range c.damage {
		slices.Sort(d.Backups)
		d.Backups = slices.Compact(d.Backups)
		c.report.Damaged = append(c.report.Damaged, *d)
	}
	slices.SortFunc(c.report.Damaged, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	return c.report, nil
}

// packUse is what the recipes say of one pack.
type packUse struct {
	size    int64
	backups []string
	locs    map[Loc]struct{} // content that files name
}

type check struct {
	v        *Vault
	o        VerifyOptions
	users    map[PackID]*packUse
	mu       sync.Mutex
	damage   map[string]*Damage
	report   VerifyReport
	progress VerifyProgress
}

// found files err as damage, or returns it when it is none.
func (c *check) found(err error, backups ...string) error {
	ce, ok := errors.AsType[*CorruptError](err)
	if !ok {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.damage[ce.Object]
	if d == nil {
		d = &Damage{Object: ce.Object, Reason: ce.Reason}
		c.damage[ce.Object] = d
	}
	d.Backups = append(d.Backups, backups...)
	return nil
}

func (c *check) tell(change func(*VerifyProgress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.progress)
	if c.o.Progress != nil {
		c.o.Progress(c.progress)
	}
}

// backup opens a manifest and its recipes and notes what they name.
func (c *check) backup(ctx context.Context, ref BackupRef) error {
	defer c.tell(func(p *VerifyProgress) { p.BackupsDone++ })
	name := ref.Instance + "/" + ref.ID
	m, err := c.v.Manifest(ctx, ref)
	if err != nil {
		return c.found(err, name)
	}
	c.report.Backups++
	if m.Lost > 0 {
		c.report.Incomplete = append(c.report.Incomplete, IncompleteBackup{Backup: name, Lost: m.Lost})
	}
	listed := map[PackID]bool{}
	for _, p := range m.Packs {
		listed[p.ID] = true
		u := c.users[p.ID]
		if u == nil {
			u = &packUse{size: p.Size, locs: map[Loc]struct{}{}}
			c.users[p.ID] = u
		}
		u.backups = append(u.backups, name)
	}
	for i := range m.Volumes {
		vol := &m.Volumes[i]
		var last follower
		var entries uint64
		err := c.v.Items(ctx, vol, func(items []Item) error {
			c.report.Items += uint64(len(items))
			for _, it := range items {
				for _, x := range it.Extents {
					if !listed[x.Chunk.Pack] {
						return &CorruptError{Object: m.Object, Reason: fmt.Sprintf("does not list pack %s, which its recipe names", x.Chunk.Pack)}
					}
					c.users[x.Chunk.Pack].locs[x.Chunk] = struct{}{}
				}
				if err := last.follow(&it); err != nil {
					return &CorruptError{Object: m.Object, Reason: err.Error()}
				}
				if !it.Continued {
					entries++
				}
			}
			return nil
		})
		if err == nil && entries != vol.Entries {
			err = &CorruptError{Object: m.Object, Reason: fmt.Sprintf("names %d entries of volume %s, its recipe has %d", vol.Entries, vol.Name, entries)}
		}
		if err := c.found(err, name); err != nil {
			return err
		}
	}
	return nil
}

// packs looks at every pack that was named.
func (c *check) packs(ctx context.Context) error {
	c.progress.Packs = len(c.users)
	g, ctx := contain.WithContext(ctx)
	g.SetLimit(4)
	ids := slices.Collect(maps.Keys(c.users))
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	whole := int(math.Ceil(float64(len(ids)) * c.o.ReadDataPercent / 100))
	for i, id := range ids {
		use := c.users[id]
		g.Go(func() error {
			n, chunks, err := c.pack(ctx, id, use, i < whole)
			c.tell(func(p *VerifyProgress) {
				p.PacksDone++
				p.BytesRead += uint64(n)
				c.report.Packs++
				c.report.Chunks += chunks
				c.report.BytesRead += uint64(n)
			})
			return c.found(err, use.backups...)
		})
	}
	return g.Wait()
}

func (c *check) pack(ctx context.Context, id PackID, use *packUse, whole bool) (read int64, chunks uint64, err error) {
	key := c.v.packKey(id)
	rows, size, err := c.v.PackTable(ctx, id)
	if errors.Is(err, obs.ErrNotFound) {
		return 0, 0, &CorruptError{Object: key, Reason: "is missing from the store"}
	} else if err != nil {
		return 0, 0, err
	}
	if size != use.size {
		return 0, 0, &CorruptError{Object: key, Reason: fmt.Sprintf("has %d bytes, the manifest says %d", size, use.size)}
	}
	have := make(map[Loc]struct{}, len(rows))
	for _, r := range rows {
		have[Loc{Pack: id, Off: r.Off, Len: r.Len, Raw: r.Raw}] = struct{}{}
	}
	for l := range use.locs {
		if _, ok := have[l]; !ok {
			return 0, 0, &CorruptError{Object: key, Reason: fmt.Sprintf("has no chunk at byte %d, which a recipe names", l.Off)}
		}
	}
	if !whole {
		return 0, 0, nil
	}
	magic := make([]byte, packHeader)
	if err := c.v.ReadRun(ctx, id, magic, 0); err != nil {
		return 0, 0, err
	}
	if string(magic) != packMagic {
		return 0, 0, &CorruptError{Object: key, Reason: "does not begin as a pack does"}
	}
	chunks, err = c.v.verifyRows(ctx, id, rows)
	return size, chunks, err
}

// verifyRun is how much of a pack is read at a time, bytes.
const verifyRun = 2 << 20

// verifyBuffers is what one pack at a time needs: what was read of it, and a chunk.
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
			if buf.plain, err = openChunk(aead, key, r.Kind, loc, at[:r.Len], buf.plain); err != nil {
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

// Sample reads n chunks of the packs, in runs at random places, and compares each with its name: a look whether
// the store gives back what it confirmed. It returns how many it read.
func (v *Vault) Sample(ctx context.Context, packs []PackRef, n int) (int, error) {
	// Side by side: an instance is held meanwhile, and a store is a round trip away.
	picked := rand.Perm(len(packs))[:min(n, len(packs))]
	want := max(1, n/max(len(packs), 1))
	runs := make([][][]Row, len(picked))
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(sampleInFlight)
	for k, i := range picked {
		g.Go(func() error {
			all, err := v.packTable(gctx, packs[i].ID, packs[i].Size)
			if err != nil {
				return fmt.Errorf("sample pack %s: %w", packs[i].ID, err)
			}
			runs[k] = sampleRuns(all, want)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	var read atomic.Uint64
	g, gctx = contain.WithContext(ctx)
	g.SetLimit(sampleInFlight)
	for k, i := range picked {
		for _, run := range runs[k] {
			g.Go(func() error {
				chunks, err := v.verifyRows(gctx, packs[i].ID, run)
				if err != nil {
					return fmt.Errorf("sample: %w", err)
				}
				read.Add(chunks)
				return nil
			})
		}
	}
	err := g.Wait()
	return int(read.Load()), err
}

const (
	// sampleInFlight is how many reads of a sample are under way at once.
	sampleInFlight = 8
	// sampleRun is how many neighbours of a sample are read with one request at most: of a hundred small backups the requests are
	// what the store has to do, and neighbours tell as much as chunks from everywhere, but of damage that is smaller than a run.
	sampleRun = 8
)

// sampleRuns picks want of the rows, or all: runs of neighbours, each at a random place of an equal part of the pack.
func sampleRuns(rows []Row, want int) (runs [][]Row) {
	want = min(want, len(rows))
	parts := (want + sampleRun - 1) / sampleRun
	for p := range parts {
		part := rows[p*len(rows)/parts : (p+1)*len(rows)/parts]
		n := min((p+1)*want/parts-p*want/parts, len(part))
		at := rand.IntN(len(part) - n + 1)
		runs = append(runs, part[at:at+n])
	}
	return runs
}
