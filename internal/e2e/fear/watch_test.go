package fear_test

import (
	"context"
	"strings"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// watcher looks at the objects of the vault itself, so that a loss is found soon.
type watcher struct {
	s     *stage
	st    obs.Store
	v     *vault.Vault
	packs map[string][]string // that a manifest names, by the backup's id
}

// watch looks again and again until ctx ends.
func (s *stage) watch(ctx context.Context) {
	w := &watcher{s: s, packs: map[string][]string{}}
	w.st, w.v = s.open(s.t.Context())
	defer func() {
		w.v.Close()
		if err := w.st.Close(); err != nil {
			s.found("close the store: %v", err)
		}
	}()
	for pause(ctx, 300*time.Millisecond) {
		if err := w.look(s.t.Context()); err != nil {
			s.found("look at the vault: %v", err)
		}
	}
}

// look finds backups that have to be there and lack their manifest or a pack. Each list has such an
// object, because nothing may delete it.
func (w *watcher) look(ctx context.Context) error {
	due := w.s.ledger.everything(grace)
	there := map[string]bool{}
	for info, err := range w.st.List(ctx, w.v.Info().ID+"/") {
		if err != nil {
			return err
		}
		there[info.Key[strings.LastIndexByte(info.Key, '/')+1:]] = true
	}
	for _, b := range due {
		what := ""
		if !there[b.id] {
			what = "its manifest is missing"
		} else if packs, err := w.packsOf(ctx, b); err != nil {
			what = err.Error()
		} else {
			for _, p := range packs {
				if !there[p] {
					what = "its pack " + p + " is missing"
				}
			}
		}
		if what != "" && w.s.ledger.due(b, grace) {
			w.s.found("backup %s of %s was reported as made, and nothing may have deleted it: %s", b.id, b.instance, what)
			return nil
		}
	}
	w.s.trail.count("looks at the vault")
	return nil
}

func (w *watcher) packsOf(ctx context.Context, b *backup) ([]string, error) {
	if packs, known := w.packs[b.id]; known {
		return packs, nil
	}
	ref, _ := vault.RefOf(b.instance, b.id)
	m, err := w.v.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	for _, p := range m.Packs {
		w.packs[b.id] = append(w.packs[b.id], p.ID.String())
	}
	return w.packs[b.id], nil
}
