package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The steps, in their order. Each is one process of each tool.
const (
	stepFirst   = "first"   // phone a into an empty repository
	stepAgain   = "again"   // nothing has changed
	stepSibling = "sibling" // phone b, with three of five apps of a
	stepChanged = "changed" // a day later, phone a again
	stepRestore = "restore" // phone a, to a new place
	// restore, and the flush of the restored data to the disk; it has no other figures
	stepOnDisk = "restore, synced"
	stepVerify = "verify" // read and check all that is stored
	// the restored tree takes the place of phone a, and is backed up
	stepAfterRestore = "after-restore"
	// no tool: for first, read phone a and compress it; for restore, copy it to the disk
	stepFloor = "floor"
)

var steps = []string{stepFirst, stepAgain, stepSibling, stepChanged, stepRestore, stepOnDisk, stepVerify, stepAfterRestore}

// found is a tool that is there.
type found struct{ name, bin, version string }

// results has the costs of all rounds, by tool and step. The floor's tool is "floor".
type results map[string]map[string][]cost

func (r results) add(tool, step string, c cost) {
	if r[tool] == nil {
		r[tool] = map[string][]cost{}
	}
	r[tool][step] = append(r[tool][step], c)
}

// runner runs the rounds.
type runner struct {
	settings
	dir      string // all that is made is below it
	trees    string // below dir too, or dir itself: the trees that are backed up and restored
	path     string // PATH
	progress io.Writer
	found    []found
	now      cell
	far      *farStore // of a far cell
	files    int       // of the tree
	data     int64     // the bytes of the tree
	results  results
}

// find looks for the tools and asks for their versions.
func (r *runner) find(ctx context.Context) error {
	for _, name := range r.tools {
		t := tools[name]
		look, what := exec.LookPath, t.program
		if what == "" {
			look, what = filepath.Abs, r.holdfast
		}
		bin, err := look(what)
		if err != nil {
			if r.chosen || !errors.Is(err, exec.ErrNotFound) {
				return err
			}
			continue
		}
		c := command{args: append([]string{bin}, t.version...), dir: r.dir, env: []string{"HOME=" + r.dir}}
		_, said, err := c.run(ctx)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
		r.found = append(r.found, found{name, bin, first})
	}
	return nil
}

// run runs all rounds. The tools take turns in a round, and which is first
// changes with the round, so that a machine that gets slower is no tool's loss.
func (r *runner) run(ctx context.Context) (err error) {
	if err := r.phone(ctx, "b", 1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.tree("b"))) }()
	for round := range r.rounds {
		for i := range r.found {
			f := r.found[(i+round)%len(r.found)]
			if r.far != nil && tools[f.name].nearby {
				continue
			}
			start := time.Now()
			if err := r.turn(ctx, f, i == 0); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, f.name, err)
			}
			fmt.Fprintf(r.progress, "%s, round %d of %d: %s took %.0f s\n", r.now, round+1, r.rounds, f.name, time.Since(start).Seconds())
		}
	}
	return nil
}

func (r *runner) tree(name string) string { return filepath.Join(r.trees, name) }
func (r *runner) in(name string) string   { return filepath.Join(r.dir, name) }
func (r *runner) number(n int) string     { return strconv.Itoa(n) }

// phone makes an instance's tree.
func (r *runner) phone(ctx context.Context, tree string, instance int) error {
	said, err := r.self(ctx, "phone", r.tree(tree), r.number(r.now.seed), strconv.FormatInt(r.now.bytes, 10), r.number(instance), string(r.now.mix))
	if err != nil {
		return err
	}
	_, err = fmt.Sscan(said, &r.files, &r.data)
	return err
}

// self runs a part of this program in a process of its own and returns its output.
func (r *runner) self(ctx context.Context, args ...string) (string, error) {
	_, said, err := r.selfCost(ctx, args...)
	return said, err
}

func (r *runner) selfCost(ctx context.Context, args ...string) (cost, string, error) {
	bin, err := os.Executable()
	if err != nil {
		return cost{}, "", err
	}
	return command{args: append([]string{bin}, args...), dir: r.dir, env: []string{"HOME=" + r.dir}}.run(ctx)
}

// settled is how old the youngest file is when a tool sees it first.
const settled = 3 * time.Second

// turn runs the steps of one tool, with phone a as it is on the
// first day, and removes all but phone b.
func (r *runner) turn(ctx context.Context, f found, measureFloor bool) (err error) {
	a := r.tree("a")
	if err := r.phone(ctx, "a", 0); err != nil {
		return err
	}
	if measureFloor && r.far == nil { // the floors know no network
		if err := r.floors(ctx, a); err != nil {
			return err
		}
	}
	// The files of a phone are older than a moment. Tools do not trust the times of new
	// files, and read them again at the next step: holdfast does so for files that
	// changed within two seconds of its begin, borg for the newest of all.
	select {
	case <-time.After(settled):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	t := &turn{runner: r, tool: tools[f.name], name: f.name, place: place{bin: f.bin, home: r.in("home"), repo: r.in("repo")}}
	if r.far != nil {
		if t.place.repo, err = r.far.bucket(); err != nil {
			return err
		}
		t.place.far = r.far.address
	}
	defer func() {
		for _, dir := range []string{a, t.place.home, t.place.repo, r.tree("restored")} {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	return t.run(ctx, a)
}

// floors measures the work that no tool can leave out.
func (r *runner) floors(ctx context.Context, a string) error {
	first, left, err := r.selfCost(ctx, "floor", a)
	if err != nil {
		return err
	}
	if first.stored, err = strconv.ParseInt(left, 10, 64); err != nil {
		return err
	}
	first.added = first.stored
	r.results.add(stepFloor, stepFirst, first)
	if err := writeBack(r.trees); err != nil {
		return err
	}
	restored := r.tree("restored")
	back, _, err := r.selfCost(ctx, "copy", a, restored)
	if err != nil {
		return err
	}
	r.results.add(stepFloor, stepRestore, back)
	return errors.Join(r.sameTrees(ctx, a, restored), os.RemoveAll(restored))
}

func (r *runner) sameTrees(ctx context.Context, a, b string) error {
	_, err := r.self(ctx, "same", a, b)
	return err
}

// turn is one tool's part of a round.
type turn struct {
	*runner
	*tool
	name   string
	place  place
	stored int64 // before the next step
}

func (t *turn) run(ctx context.Context, a string) error {
	for _, dir := range []string{t.place.home, t.place.repo, t.place.in("tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, args := range t.initial(t.place) {
		if _, _, err := t.command(args).run(ctx); err != nil {
			return err
		}
	}
	var err error
	if t.stored, err = sizeOf(t.place.repo); err != nil {
		return err
	}
	for _, step := range []struct{ name, tree string }{{stepFirst, "a"}, {stepAgain, "a"}, {stepSibling, "b"}} {
		if err := t.step(ctx, step.name, t.command(t.backup(t.place, t.tree(step.tree), step.name))); err != nil {
			return err
		}
	}
	if _, err := t.self(ctx, "day", a, t.number(t.now.seed)); err != nil {
		return err
	}
	if err := t.step(ctx, stepChanged, t.command(t.backup(t.place, a, stepChanged))); err != nil {
		return err
	}
	restored, err := t.getBack(ctx, a)
	if err != nil {
		return err
	}
	if err := t.step(ctx, stepVerify, t.command(t.verify(t.place))); err != nil {
		return err
	}
	if err := os.RemoveAll(a); err != nil {
		return err
	}
	if err := os.Rename(restored, a); err != nil {
		return err
	}
	return t.step(ctx, stepAfterRestore, t.command(t.backup(t.place, a, stepAfterRestore)))
}

// getBack restores tree elsewhere, compares the two, and returns where it is.
func (t *turn) getBack(ctx context.Context, tree string) (string, error) {
	to := t.tree("restored")
	if t.made {
		if err := os.Mkdir(to, 0o700); err != nil {
			return "", err
		}
	}
	c := t.command(t.restore(t.place, tree, stepChanged, to))
	if t.made {
		c.dir = to
	}
	if err := t.step(ctx, stepRestore, c); err != nil {
		return "", err
	}
	restored := t.restored(tree, to)
	return restored, t.sameTrees(ctx, tree, restored)
}

// step runs a command, and adds its cost.
func (t *turn) step(ctx context.Context, name string, c command) error {
	// This step must not wait for the writes before it.
	if err := errors.Join(writeBack(t.trees), writeBack(t.dir)); err != nil {
		return err
	}
	spent, _, err := c.run(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if name == stepRestore {
		start := time.Now()
		if err := writeBack(t.trees); err != nil {
			return err
		}
		t.results.add(t.name, stepOnDisk, cost{wall: spent.wall + time.Since(start)})
	}
	if spent.stored, err = sizeOf(t.place.repo); err != nil {
		return err
	}
	spent.added, t.stored = spent.stored-t.stored, spent.stored
	t.results.add(t.name, name, spent)
	return nil
}

// writeBack returns when all that was written to the file system of dir is on its disk.
func writeBack(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // only asked
	return unix.Syncfs(int(d.Fd()))
}

// command gives a tool a home of its own, in memory as well: some keep caches and temporary files.
func (t *turn) command(args []string) command {
	env := []string{
		"PATH=" + t.path, "HOME=" + t.place.home, "TMPDIR=" + t.place.in("tmp"),
		"XDG_CACHE_HOME=" + t.place.in("cache"), "XDG_CONFIG_HOME=" + t.place.in("config"), "XDG_STATE_HOME=" + t.place.in("state"), "LC_ALL=C.UTF-8",
	}
	if t.place.far != "" {
		env = append(env, farEnv()...)
	}
	return command{args: args, dir: t.place.home, env: append(env, t.env(t.place)...)}
}
