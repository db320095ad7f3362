package vault

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/tree"
)

// writer makes one backup, as internal/backup does.
type writer struct {
	*view
	state   int
	tries   int
	s       *Session
	w       *Writer
	rec     *RecipeWriter
	packs   *NamedPacks
	looks   *PackLooks // of the session
	without []PackID
	chunks  []int
	lists   []PageRef
	sent    []string // by all tries
}

func (a *writer) step() {
	if a.busy || a.gone {
		return
	}
	a.busy = true
	defer func() { a.busy = false }()
	g := a.g
	a.plan()
	v := a.vault()
	var err error
	switch a.state {
	case 0: // begin
		a.looks = v.NewPackLooks()
		if a.s, err = v.BeginSession(g.ctx, SessionOptions{Host: "h", Settled: g.settled}); err == nil && !g.rules.writerIgnoresCondemned {
			a.without = append(a.without, a.s.Condemned()...)
		}
	case 1: // which content is stored?
		resume := a.sent
		if len(resume) == 0 && !a.sound && g.draw(2, "resume") == 0 {
			resume, g.resume = g.resume, nil
		}
		a.w, err = v.NewWriter(g.ctx, WriterOptions{IndexDir: g.dir, Looks: a.looks, Without: a.without, Resume: resume, Intent: func(id string) error {
			a.sent = append(a.sent, id)
			return nil
		}})
		if err == nil {
			// the game looks itself, in its own order
			a.packs = a.w.NamePacks(g.ctx, func(PackID) bool { return true })
			a.rec, err = a.w.NewRecipe(a.packs)
		}
	case 2: // store
		if err = a.store(); err == nil && !a.sound && g.draw(2, "look early") == 0 {
			err = a.lookEarly()
		}
	case 3:
		if a.lists, err = a.rec.Finish(); err == nil {
			_, err = a.w.Finish(g.ctx)
			a.w = nil
		}
	case 4:
		err = a.commit(v)
	case 5:
		if !a.sound && g.draw(3, "another") == 0 { // backup of the process joins the session
			g.sum.Joined++
			a.state, a.tries, a.sent = 1, 0, nil
			return
		}
		if err = a.s.End(g.ctx); err == nil {
			a.leave()
			return
		}
	}
	var missing *MissingPacksError
	switch {
	case err == nil:
		a.state++
	case a.dead:
		g.sum.Crashes++
		g.resume = append(g.resume, a.sent...)
		g.kill(a)
	case errors.As(err, &missing) && a.tries < 3:
		g.sum.Missing++
		maps.DeleteFunc(g.known, func(_ int, l Loc) bool { return slices.Contains(lostIDs(missing), l.Pack) })
		a.plain()
		g.fail(a.s.End(g.ctx))
		a.without, a.state, a.tries = lostIDs(missing), 0, a.tries+1
	case errors.Is(err, ErrSessionGone) && a.tries < 3:
		g.sum.Again++
		a.plain()
		g.fail(a.s.End(g.ctx))
		a.state, a.tries = 0, a.tries+1
	case errors.Is(err, obs.ErrUnavailable), errors.Is(err, obs.ErrAccess), errors.Is(err, ErrSessionGone):
		a.giveUp()
	default:
		g.fail(fmt.Errorf("writer in state %d: %w", a.state, err))
		g.kill(a)
	}
}

func lostIDs(e *MissingPacksError) []PackID {
	ids := make([]PackID, len(e.Packs))
	for i, p := range e.Packs {
		ids[i] = p.ID
	}
	return ids
}

func chunkPath(i int) string { return fmt.Sprintf("f%02d", i) }

// store adds files of some chunks: from the host's memory, from the index, or anew.
func (a *writer) store() error {
	if err := a.rec.Add(Item{Entry: tree.Entry{Kind: tree.Dir}}); err != nil {
		return err
	}
	a.chunks = a.chunks[:0]
	remember := !a.sound && a.g.draw(2, "remember") == 0
	namer := a.g.v.Namer()
	for i := range gameChunks {
		if !a.sound && a.g.draw(2, "file") == 0 {
			continue
		}
		b := chunkContent(i)
		loc, ok := a.g.known[i]
		if !remember || !ok || slices.Contains(a.without, loc.Pack) {
			if ok && slices.Contains(a.without, loc.Pack) {
				a.g.sum.Avoided++
			}
			name := namer.Name(b)
			if loc, ok = a.w.Known(name); !ok {
				s, err := a.w.Add(name, seal.Raw, b, len(b))
				if err != nil {
					return err
				}
				loc = s.Loc
			}
		}
		err := a.rec.Add(Item{
			Entry:   tree.Entry{Kind: tree.File, Path: chunkPath(i), Size: int64(len(b))},
			Extents: []Extent{{Chunk: loc, Len: uint32(len(b))}},
		})
		if err != nil {
			return err
		}
		a.chunks = append(a.chunks, i)
	}
	return nil
}

// lookEarly looks at the packs that were named so far, long before the manifest.
func (a *writer) lookEarly() error {
	var ids []PackID
	for id := range a.packs.packs {
		if !a.w.Began(id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y PackID) int { return bytes.Compare(x[:], y[:]) })
	return a.packs.look(a.g.ctx, ids)
}

// modelID names the nth backup of a game: all backups of a
// game are on one branch, each on top of the backup before.
func modelID(n int) string {
	branch := min(n-1, 1) // the first backup has no parent, and so no branch of a parent
	return fmt.Sprintf("%08d-20260102T150405Z-%08x%08x-%08d%08x-%08x", n, n, 0, n-1, n-1, branch)
}

// modelParent names the parent of the nth backup of a game; the first has none.
func modelParent(n int) string {
	if n == 1 {
		return ""
	}
	return modelID(n - 1)
}

// commit writes the manifest.
func (a *writer) commit(v *Vault) error {
	g := a.g
	refs, err := a.packs.Refs(g.ctx)
	if err != nil {
		return err
	}
	m := &Manifest{
		Instance: "i", Seq: uint64(len(g.want) + 1), ID: modelID(len(g.want) + 1), Parent: modelParent(len(g.want) + 1),
		Volumes: []Volume{{Name: "v", Kind: "tree", Lists: a.lists}}, Packs: refs,
	}
	g.want[m.ID] = slices.Clone(a.chunks)
	g.sessionOf[m.ID] = a.s.id
	if err := a.writeManifest(v, m); err != nil {
		return err
	}
	g.sum.Backups++
	g.confirmed[m.ID] = true
	return g.v.Items(g.ctx, &m.Volumes[0], func(items []Item) error {
		for _, it := range items {
			if it.Kind == tree.File {
				var n int
				if _, err := fmt.Sscanf(it.Path, "f%d", &n); err != nil {
					return err
				}
				if _, ok := g.known[n]; !ok {
					g.known[n] = it.Extents[0].Chunk
				}
			}
		}
		return nil
	})
}

// writeManifest stores the manifest under the session, or after its end where the rules of the game
// break W9: then a collector comes between.
func (a *writer) writeManifest(v *Vault, m *Manifest) error {
	if !a.g.rules.writerEndsEarly {
		return a.s.WriteManifest(a.g.ctx, m)
	}
	if err := a.s.End(a.g.ctx); err != nil {
		return err
	}
	c := newCollector(&view{g: a.g, sound: true})
	for range 2 * len(pruneSteps) { // other writers may keep it waiting
		c.step()
	}
	c.ended()
	return v.WriteManifest(a.g.ctx, m)
}

// giveUp ends a writer whose process goes on.
func (a *writer) giveUp() {
	a.abort()
	if a.s != nil {
		if a.g.rules.writerForgetsDoubt {
			a.s.doubts = 0
		}
		a.plain() // a session that can't be removed now goes with the next one; both are played
		if err := a.s.End(a.g.ctx); err != nil {
			a.g.fail(err)
		}
	}
	a.leave()
}

func (a *writer) abort() {
	if a.w != nil {
		_ = a.w.Abort(errors.New("the writer gives up")) // it is given up in any case
		a.w = nil
	}
}

// leave takes the writer out of the game; its process may go on.
func (a *writer) leave() {
	a.gone = true
	a.g.writers = slices.DeleteFunc(a.g.writers, func(o *writer) bool { return o == a })
	a.g.lingering = append(a.g.lingering, a.view)
}

// kill ends a writer's process.
func (g *game) kill(a *writer) {
	a.dead = true
	a.abort()
	a.leave()
	g.exit(a.view)
}

// exit ends a process: no request of it has an effect any
// more, and its sessions are sessions of a dead process.
func (g *game) exit(p *view) {
	p.ended()
	g.lingering = slices.DeleteFunc(g.lingering, func(o *view) bool { return o == p })
}
