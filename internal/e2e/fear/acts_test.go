package fear_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// The exit codes of holdfast that say more than "done" or "failed".
const (
	codePart = 3
	codeNone = 10
)

// disturb lets all actors work for the time of the stage.
func (s *stage) disturb() {
	ctx, cancel := context.WithTimeout(s.t.Context(), s.time+patience)
	defer cancel()
	s.going, s.end = ctx, cancel
	var actors sync.WaitGroup
	actors.Go(func() {
		for pause(ctx, s.time); !s.workDone() && pause(ctx, time.Second); {
			s.trail.count("seconds more")
		}
		cancel()
	})
	actors.Go(func() { s.watch(ctx) })
	number := uint64(0)
	act := func(h *host, do func(context.Context, *rand.Rand, *host)) {
		number++
		kind := uint64(0)
		if s.minio != nil {
			kind = 1 << 32
		}
		r := rand.New(rand.NewPCG(s.seed, kind+number))
		actors.Go(func() {
			for pause(ctx, time.Duration(r.Int64N(int64(100*time.Millisecond)))) {
				do(ctx, r, h)
			}
		})
	}
	for _, h := range s.hosts {
		act(h, s.backUp)
	}
	act(s.hosts[0], s.restore)
	act(s.hosts[2], s.restore)
	act(s.hosts[1], s.prune)
	act(s.hosts[3], s.prune)
	act(s.hosts[0], s.retain)
	act(s.hosts[1], s.retain)
	act(s.desk, s.declareDead)
	actors.Wait()
}

// workDone tells whether the common parts of the work that the test is for have happened. A slow
// machine takes longer for them than the time of the stage.
func (s *stage) workDone() bool {
	for what, least := range map[string]int{"backups made": 5, "restores compared": 3, "pauses": 10, "backups forgotten": 1, "prune: code 0": 1} {
		if s.trail.counted(what) < least {
			return false
		}
	}
	return true
}

// pause waits for d, or less when ctx ends; it tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// lines decodes the lines of an output that are JSON, and calls each with a line's type.
func lines(output []byte, each func(kind string, line []byte)) {
	for line := range bytes.Lines(output) {
		var is struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(line, &is) == nil {
			each(is.Type, line)
		}
	}
}

// backUp changes an instance and backs it up.
func (s *stage) backUp(ctx context.Context, r *rand.Rand, h *host) {
	var i *instance
	select {
	case i = <-s.free:
	case <-ctx.Done():
		return
	}
	defer func() { s.free <- i }()
	if err := i.change(r); err != nil {
		s.found("change %s: %v", i.id, err)
		return
	}
	res := h.run(ctx, r, "backup", "--snapshot", "off", "--instance", i.id, i.dir)
	// A process that is killed after its report has reported.
	lines(res.output, func(kind string, line []byte) {
		var b struct {
			Backup     string `json:"backup"`
			Incomplete bool   `json:"incomplete"`
		}
		if kind != "backup" || json.Unmarshal(line, &b) != nil {
			return
		}
		if b.Incomplete {
			s.found("backup %s of %s lacks content, although nothing changed meanwhile: %s", b.Backup, i.id, res.errors)
		}
		s.ledger.made(&backup{id: b.Backup, instance: i.id, began: res.began, content: maps.Clone(i.now)})
		s.trail.count("backups made")
	})
}

// restore restores a backup, or verifies the vault.
func (s *stage) restore(ctx context.Context, r *rand.Rand, h *host) {
	if r.IntN(8) == 0 {
		s.verify(ctx, r, h)
		return
	}
	b := s.ledger.choose(r, func(*backup) bool { return true })
	if b == nil {
		pause(ctx, 200*time.Millisecond)
		return
	}
	res, err := s.bringBack(ctx, r, h, b)
	switch {
	case err != nil:
		s.found("backup %s of %s restores otherwise: %v", b.id, b.instance, err)
	case res.code == 0:
		s.trail.count("restores compared")
	case ctx.Err() != nil:
	case strings.Contains(res.errors, "missing from the store") && h.hadSessions(res.began):
		// A reader keeps the packs of its backup, also when the backup is forgotten meanwhile.
		s.found("a restore of backup %s of %s lost packs, and nobody had removed its session: %s", b.id, b.instance, res.errors)
	default:
		s.demand(b, grace)
	}
}

// bringBack restores a backup into a folder of its own and compares it. The error tells of a
// difference.
func (s *stage) bringBack(ctx context.Context, r *rand.Rand, h *host, b *backup) (result, error) {
	dir, err := os.MkdirTemp(h.dir, "restored-")
	if err != nil {
		return result{}, err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			s.found("remove a restored tree: %v", err)
		}
	}()
	to := filepath.Join(dir, "to")
	res := h.run(ctx, r, "restore", "--instance", b.instance, "--backup", b.id, to)
	switch res.code {
	case 0:
		err = b.content.compare(to)
	case codePart:
		err = fmt.Errorf("it is not exact: %s%s", res.output, res.errors)
	}
	return res, err
}

// demand restores a backup that a disturbed command could not restore. Nothing disturbs this one,
// so it fails only when the vault does not have the backup.
func (s *stage) demand(b *backup, grace time.Duration) {
	res, err := s.bringBack(s.t.Context(), nil, s.desk, b)
	switch {
	case err != nil:
		s.found("backup %s of %s restores otherwise: %v", b.id, b.instance, err)
	case res.code == 0:
		s.trail.count("restores compared")
	case s.ledger.due(b, grace):
		s.found("backup %s of %s was reported as made, and nothing may have deleted it: restore ends with code %d: %s", b.id, b.instance, res.code, res.errors)
	case res.code == codeNone:
		s.ledger.lost(b)
		s.trail.count("backups deleted")
	default:
		// A prune may be in the middle of deleting it. Later it is gone.
		s.trail.count("restores of backups that are about to go")
	}
}

// verify verifies the vault, and restores each backup in which it finds something.
func (s *stage) verify(ctx context.Context, r *rand.Rand, h *host) {
	res := h.run(ctx, r, "verify", "--read-data", "50")
	lines(res.output, func(kind string, line []byte) {
		var v struct {
			Damaged []struct {
				Object, Reason string
				Backups        []string
			}
		}
		if kind != "verify" || json.Unmarshal(line, &v) != nil {
			return
		}
		for _, d := range v.Damaged {
			s.trail.note("verify finds %s: %s; it touches %q", d.Object, d.Reason, d.Backups)
			for _, name := range d.Backups {
				id := name[strings.LastIndexByte(name, '/')+1:]
				if b := s.ledger.choose(r, func(b *backup) bool { return b.id == id }); b != nil {
					s.demand(b, grace)
				}
			}
		}
	})
}

// prune collects garbage beside all others.
func (s *stage) prune(ctx context.Context, r *rand.Rand, h *host) {
	res := h.run(ctx, r, "prune", "--grace", grace.String(), "--wait", "20s")
	s.notePrune(res)
	if res.code == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if res.began.After(s.pruned) {
			s.pruned = res.began
		}
	}
}

// notePrune counts the work of a prune.
func (s *stage) notePrune(res result) {
	lines(res.output, func(kind string, line []byte) {
		var p struct {
			Deleted   int `json:"deleted_packs"`
			Forgotten int `json:"forgotten_backups_deleted"`
		}
		if kind == "prune" && json.Unmarshal(line, &p) == nil {
			s.trail.add("packs deleted", p.Deleted)
			s.trail.add("forgotten backups deleted", p.Forgotten)
		}
	})
}

// retain forgets backups, brings them back, and holds them.
func (s *stage) retain(ctx context.Context, r *rand.Rand, h *host) {
	pause(ctx, time.Duration(r.Int64N(int64(500*time.Millisecond))))
	each := func(*backup) bool { return true }
	switch n := r.IntN(20); {
	case n < 10:
		s.forget(ctx, r, h, &forgetting{instance: fmt.Sprintf("cp-%d", r.IntN(instanceCount))}, "--keep-last", fmt.Sprint(1+r.IntN(2)))
	case n < 12:
		if b := s.ledger.choose(r, each); b != nil {
			s.forget(ctx, r, h, &forgetting{ids: []string{b.id}}, b.id)
		}
	case n < 16:
		b := s.ledger.choose(r, func(b *backup) bool { return !s.ledger.forgotten(b).IsZero() })
		if b == nil {
			return
		}
		if res := h.run(ctx, r, "unforget", b.id); res.code == 0 {
			s.ledger.unforgot(b, res.began)
			s.demand(b, grace)
		}
	case n < 18:
		b := s.ledger.choose(r, each)
		if b == nil {
			return
		}
		if res := h.run(ctx, r, "hold", b.id, "--reason", "fear"); res.code == 0 {
			s.ledger.hold(b, res.began)
			s.demand(b, grace)
		}
	default:
		if b := s.ledger.choose(r, func(b *backup) bool { return b.held }); b != nil {
			end := s.ledger.unhold(b)
			h.run(ctx, r, "unhold", b.id)
			end()
		}
	}
}

func (s *stage) forget(ctx context.Context, r *rand.Rand, h *host, f *forgetting, args ...string) {
	if f.instance != "" {
		args = append(args, "--instance", f.instance, "--max-share", "100")
	}
	s.ledger.forget(f)
	res := h.run(ctx, r, append([]string{"forget"}, args...)...)
	var ids []string
	var doc struct {
		Backups []struct {
			Backup string `json:"backup"`
			Keep   bool   `json:"keep"`
		} `json:"backups"`
	}
	well := res.code == 0 && json.Unmarshal(res.output, &doc) == nil
	for _, b := range doc.Backups {
		if !b.Keep {
			ids = append(ids, b.Backup)
		}
	}
	slices.Sort(ids)
	s.ledger.forgot(f, well, ids)
	s.trail.add("backups forgotten", len(ids))
}

// declareDead removes the sessions of a host that lives.
func (s *stage) declareDead(ctx context.Context, r *rand.Rand, h *host) {
	dead := s.hosts[r.IntN(len(s.hosts))]
	select {
	case dead = <-s.asleep:
	case <-time.After(time.Duration(r.Int64N(int64(2 * time.Second)))):
	case <-ctx.Done():
		return
	}
	defer dead.declareDead()()
	h.run(ctx, r, "vault", "sessions", "--forget", dead.name)
}
