package vault

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"pgregory.net/rapid"

	"holdfast/internal/obs"
	"holdfast/internal/tree"
)

// rules are how the actors of the model behave. The zero value is what FORMAT.md says;
// each field breaks it in one way, by which the model shows that it would notice.
type rules struct {
	collectorDoesNotWait   bool // C4 is left out
	writerIgnoresCondemned bool // W2 is left out
	writerForgetsDoubt     bool // the session ends although the manifest's put was not answered
	writerEndsEarly        bool // the session ends before the manifest is put, and W7 is left out
}

// TestModel interleaves writers, collectors, deletions, rekeys and faults at random, and
// looks after each step whether every backup restores to the byte. A failure names its seed.
func TestModel(t *testing.T) {
	var sum tally
	dir := t.TempDir()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", "20"); err != nil { // each has its files on the disk
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		if err := play(t, rt, dir, rules{}, &sum); err != nil {
			rt.Fatal(err)
		}
	})
	// Rare events may not have come; then the games of some seeds have them.
	gen := rapid.Custom(func(rt *rapid.T) error { return play(t, rt, dir, rules{}, &sum) })
	for seed := 0; seed < 500 && !sum.complete(); seed++ {
		if err := gen.Example(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%+v", sum)
	if !sum.complete() {
		t.Errorf("some of what the model is for never happened: %+v", sum)
	}
}

// complete tells whether all has happened that the model is for.
func (s tally) complete() bool {
	return s.Backups > 0 && s.Deleted > 0 && s.Crashes > 0 && s.Lost > 0 && s.Avoided > 0 && s.Joined > 0 && s.Settled > 0 && s.Read > 0 && s.Removed > 0 && s.Again > 0 && s.Moved > 0
}

// TestModelFindsBrokenProtocols: each rule of FORMAT.md is there because without it a backup is
// lost, and the model sees that. TestProtocolNeedsItsRules has the rules that chance breaks
// seldom.
func TestModelFindsBrokenProtocols(t *testing.T) {
	for name, c := range map[string]struct {
		rules rules
		// a seed that finds it soon; when the model changes, the search goes on from there
		first int
	}{
		"collector does not wait":  {rules{collectorDoesNotWait: true}, 213},
		"writer ignores condemned": {rules{writerIgnoresCondemned: true}, 606},
		"writer forgets doubt":     {rules{writerForgetsDoubt: true}, 612},
		"writer ends early":        {rules{writerEndsEarly: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var sum tally
			dir := t.TempDir()
			gen := rapid.Custom(func(rt *rapid.T) error { return play(t, rt, dir, c.rules, &sum) })
			const most = 2000
			for i := range most {
				if err := gen.Example(c.first + i); err != nil {
					t.Logf("found with seed %d: %v", c.first+i, err)
					return
				}
			}
			t.Errorf("not found in %d games: %+v", most, sum)
		})
	}
}

// tally counts what happened in all games, so that the test knows that it tests something.
type tally struct {
	Backups, Deleted, Reprieved, Crashes, Lost, Avoided, Missing, Joined, Rekeys, Settled int
	Read, Removed, Again, Moved                                                           int
}

// Numbers of a game.
const (
	gameSteps   = 60
	gameChunks  = 10 // that there are to be stored
	gameWriters = 3  // at the same time
)

// game is one run of the model.
type game struct {
	ctx   context.Context //nolint:containedctx // lives for one game
	rt    *rapid.T
	rules rules
	sum   *tally
	st    obs.Store // without faults
	v     *Vault    // over it
	id    *Identity
	dir   string // of the index on disk, which all processes of the host share

	writers    []*writer
	collectors []*collector
	readers    []*reader
	// processes whose writer ended, but that still have something in doubt or on its way
	lingering []*view
	nested    bool
	failed    error

	want      map[string][]int // backup id: numbers of the chunks that its files hold
	confirmed map[string]bool  // reported as made
	deleted   map[string]bool  // by retention; a put on its way may bring one back, which nobody was promised
	sessionOf map[string]string
	removed   map[string]bool // sessions that the operator removed
	seen      map[string]bool // backups that were compared since packs were last deleted
	resume    []string        // packs of writers that crashed
	// a host's memory of old backups, which may be gone
	known map[int]Loc
}

// play plays a game and returns what went wrong.
func play(t *testing.T, rt *rapid.T, dir string, r rules, sum *tally) error {
	// pack ids decide which of two places of a chunk counts
	cryptotest.SetGlobalRandom(t, rapid.Uint64().Draw(rt, "random"))
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		return err
	}
	g := &game{
		ctx: t.Context(), rt: rt, rules: r, sum: sum, st: obs.NewMemory(), id: id, dir: dir,
		want: map[string][]int{}, confirmed: map[string]bool{}, seen: map[string]bool{}, known: map[int]Loc{},
		deleted: map[string]bool{}, sessionOf: map[string]string{}, removed: map[string]bool{},
	}
	p := DefaultParams()
	p.Pack = 4 * p.Chunk.Max
	if g.v, err = CreateWith(g.ctx, g.st, "model", nil, nil, id, p); err != nil {
		return err
	}
	defer g.stop()
	for range gameSteps {
		g.step()
		if err := g.check(); err != nil {
			return err
		}
	}
	return g.settle()
}

// stop lets go of the game's open requests.
func (g *game) stop() {
	for len(g.writers) > 0 {
		g.kill(g.writers[0])
	}
	for len(g.collectors) > 0 {
		g.killCollector(g.collectors[0])
	}
	for len(g.readers) > 0 {
		g.readers[0].leave()
	}
	for len(g.lingering) > 0 {
		g.exit(g.lingering[0])
	}
}

func (g *game) draw(n int, what string) int { return rapid.IntRange(0, n-1).Draw(g.rt, what) }

// step lets somebody do something.
func (g *game) step() {
	switch n := g.draw(46, "step"); {
	case n >= 44:
		g.removeSession()
	case n >= 42 && len(g.readers) > 0:
		g.readers[g.draw(len(g.readers), "reader")].step()
	case n >= 40:
		g.read()
	case n < 4 && len(g.writers) < gameWriters:
		g.writers = append(g.writers, &writer{view: &view{g: g}})
	case n < 22 && len(g.writers) > 0:
		w := g.writers[g.draw(len(g.writers), "writer")]
		for range 1 + g.draw(4, "steps") {
			w.step()
		}
	case n < 24 && len(g.collectors) < 2:
		g.collectors = append(g.collectors, newCollector(&view{g: g}))
	case n < 34 && len(g.collectors) > 0:
		c := g.collectors[g.draw(len(g.collectors), "collector")]
		for range 1 + g.draw(6, "steps") {
			c.step()
		}
	case n == 34 && len(g.collectors) > 0:
		g.killCollector(g.collectors[g.draw(len(g.collectors), "collector")])
	case n < 37:
		g.deleteBackup()
	case n == 37 && len(g.lingering) > 0:
		g.exit(g.lingering[g.draw(len(g.lingering), "process")])
	case n == 38 && len(g.lingering) > 0:
		p := g.lingering[g.draw(len(g.lingering), "process")]
		for _, o := range g.lingering { // a process with a doubt is rare among them
			if g.rules == (rules{}) && o.ledger != nil && len(o.ledger.doubts) > 0 {
				p = o
			}
		}
		if g.draw(2, "settle") == 0 {
			g.settleDoubts(p)
		} else {
			p.deliver()
		}
	case n == 39 && g.draw(4, "rekey") == 0:
		g.rekey()
	}
}

// interleave lets others go on between two requests of one.
func (g *game) interleave() {
	if g.nested || g.failed != nil {
		return
	}
	g.nested = true
	defer func() { g.nested = false }()
	for range g.draw(4, "steps between") {
		g.step()
	}
}

func (g *game) list(part string) (found []string) {
	for info, err := range g.st.List(g.ctx, g.v.info.ID+"/"+part) {
		if err != nil {
			panic(err) // the memory has no faults
		}
		found = append(found, info.Key)
	}
	return found
}

// deleteBackup deletes a backup that was reported as made.
func (g *game) deleteBackup() {
	all := slices.Sorted(maps.Keys(g.confirmed))
	if len(all) == 0 {
		return
	}
	id := all[g.draw(len(all), "backup")]
	delete(g.confirmed, id)
	g.deleted[id] = true
	g.fail(g.st.Delete(g.ctx, g.v.manifestKey("i", id)))
}

// rekey adds a recipient and takes it away again.
func (g *game) rekey() {
	other, err := GenerateIdentity()
	g.fail(err)
	_, err = g.v.Rekey(g.ctx, g.id, Change{Add: other.recipients()})
	g.fail(err)
	_, err = Open(g.ctx, g.st, "model", nil, other)
	g.fail(err)
	_, err = g.v.Rekey(g.ctx, g.id, Change{Remove: other.recipients()})
	g.fail(err)
	g.sum.Rekeys++
}

// settleDoubts lets a process whose writer has ended find out the outcome of its manifests.
func (g *game) settleDoubts(p *view) {
	if g.rules.writerForgetsDoubt || p.busy {
		return
	}
	p.plain()
	p.busy = true
	defer func() { p.busy = false }()
	done, err := p.vault().Settle(g.ctx)
	g.fail(err)
	for _, so := range done {
		g.settled(so)
	}
}

func (g *game) settled(so Settled) {
	if so.Exists {
		g.sum.Settled++
		g.confirmed[so.Backup.ID] = true
	}
}

// read begins to read one of the backups.
func (g *game) read() {
	all := slices.Sorted(maps.Keys(g.confirmed))
	if len(all) == 0 || len(g.readers) > 1 {
		return
	}
	ref, _ := RefOf("i", all[g.draw(len(all), "backup")])
	g.readers = append(g.readers, &reader{view: &view{g: g}, ref: ref})
}

// fail notes an error that no actor should meet.
func (g *game) fail(err error) {
	if err != nil && g.failed == nil {
		g.failed = err
	}
}

// check compares every existing backup with its original content.
func (g *game) check() error {
	if g.failed != nil {
		return g.failed
	}
	there := map[string]bool{}
	for _, key := range g.list("backups/") {
		id := key[strings.LastIndexByte(key, '/')+1:]
		there[id] = true
		if g.seen[id] || g.deleted[id] {
			continue
		}
		// Nobody was promised a backup whose session was removed before it was made.
		if !g.confirmed[id] && g.removed[g.sessionOf[id]] {
			continue
		}
		if err := g.compare(id); err != nil {
			return fmt.Errorf("backup %s: %w", id, err)
		}
		g.seen[id] = true
	}
	for id := range g.confirmed {
		if !there[id] {
			return fmt.Errorf("backup %s was confirmed and is gone", id)
		}
	}
	return nil
}

func chunkContent(i int) []byte { return fmt.Appendf(nil, "the content of chunk %d", i) }

// compare restores a backup.
func (g *game) compare(id string) error {
	m, err := g.v.Manifest(g.ctx, BackupRef{Instance: "i", ID: id})
	if err != nil {
		return err
	}
	if err := g.v.packsPresent(g.ctx, m.Packs, true); err != nil {
		return err
	}
	want := g.want[id]
	err = g.v.Items(g.ctx, &m.Volumes[0], func(items []Item) error {
		for _, it := range items {
			if it.Kind != tree.File {
				continue
			}
			if len(want) == 0 || it.Path != chunkPath(want[0]) {
				return fmt.Errorf("has %s, want %v", it.Path, want)
			}
			b, err := g.v.ReadChunk(g.ctx, Content, it.Extents[0].Chunk)
			if err != nil {
				return err
			}
			if string(b) != string(chunkContent(want[0])) {
				return fmt.Errorf("%s holds %q", it.Path, b)
			}
			want = want[1:]
		}
		return nil
	})
	if err == nil && len(want) > 0 {
		err = fmt.Errorf("lacks chunks %v", want)
	}
	return err
}

// settle ends all open work, collects, and looks whether no garbage is left.
func (g *game) settle() error {
	g.stop()
	if g.rules != (rules{}) {
		return g.check() // a collector that breaks rules may leave garbage
	}
	w := &writer{view: &view{g: g, sound: true}}
	for g.writers = append(g.writers, w); len(g.writers) > 0 && g.failed == nil; {
		w.step()
	}
	g.collectAll()
	if err := g.check(); err != nil {
		return err
	}
	if err := g.noGarbage(); err != nil {
		return err
	}
	// Packs that a dead collector condemned stay until no backup needs them any more.
	g.fail(g.st.Delete(g.ctx, g.list("backups/")...))
	g.collectAll()
	if left := slices.Concat(g.list("sessions/"), g.list("condemned/"), g.list("moved/")); len(left) > 0 {
		return fmt.Errorf("left in the end: %q", left)
	}
	return g.failed
}

// collectAll collects twice: its own garbage, and then the packs that others condemned.
func (g *game) collectAll() {
	for range 2 {
		c := newCollector(&view{g: g, sound: true})
		for g.collectors = append(g.collectors, c); len(g.collectors) > 0 && g.failed == nil; {
			c.step()
		}
	}
}

// noGarbage is an error when the store has a pack that no manifest names.
func (g *game) noGarbage() error {
	named, err := g.v.namedPacks(g.ctx)
	if err != nil {
		return err
	}
	for _, key := range g.list("packs/") {
		id, err := ParsePackID(key[strings.LastIndexByte(key, '/')+1:])
		if err != nil || !named[id] {
			return fmt.Errorf("garbage in the end: %s", key)
		}
	}
	return nil
}

// namedPacks returns the packs that some manifest names.
func (v *Vault) namedPacks(ctx context.Context) (map[PackID]bool, error) {
	refs, err := v.Backups(ctx, "")
	if err != nil {
		return nil, err
	}
	named := map[PackID]bool{}
	for _, ref := range refs {
		m, err := v.Manifest(ctx, ref)
		if errors.Is(err, ErrNoBackup) {
			continue // deleted since
		} else if err != nil {
			return nil, err
		}
		for _, p := range m.Packs {
			named[p.ID] = true
		}
	}
	to, err := v.movedPacks(ctx)
	for again := true; again; {
		again = false
		for id := range to {
			for _, next := range slices.Concat(to[id]...) {
				again = again || named[id] && !named[next]
				named[next] = named[next] || named[id]
			}
		}
	}
	return named, err
}
