package fleet_test

import (
	"context"
	"time"
)

// watch looks at the whole fleet again and again until ctx ends.
func (f *fleet) watch(ctx context.Context) {
	w := watcher{f: f, frozen: map[*phone]frozenFor{}, silent: map[*host]time.Time{}}
	for n := 0; pause(ctx, time.Second); n++ {
		w.places()
		w.signs(ctx)
		if n%5 == 0 {
			f.compareLives()
			for _, h := range f.hosts {
				h.resend(ctx)
			}
		}
		f.trail.count("looks at the fleet")
	}
}

type watcher struct {
	f      *fleet
	frozen map[*phone]frozenFor
	silent map[*host]time.Time // since when a host that is well does not answer
}

// frozenFor is a process that stands still.
type frozenFor struct {
	process process
	since   time.Time
	looks   int // at its host, which showed nothing
	told    bool
}

// places: a phone has a process on one host at most.
func (w *watcher) places() {
	for _, p := range w.f.phones { // of tablets the ledger knows where they may live
		var on []string
		for _, h := range w.f.hosts {
			if p.look(h).pid != 0 {
				on = append(on, h.name)
			}
		}
		if len(on) > 1 {
			w.f.found("%s lives on %v at the same time", p.id, on)
		}
	}
}

// signs: what stands still for a while shows in the list of the
// host's instances and in its metrics.
func (w *watcher) signs(ctx context.Context) {
	for _, p := range w.f.everything() {
		h := p.where()
		v := p.look(h)
		s := w.frozen[p]
		if !v.frozen || v != s.process {
			w.frozen[p] = frozenFor{process: v, since: time.Now()}
			continue
		}
		if s.told || time.Since(s.since) < signPatience || !h.well(signPatience) || p.meddledSince(s.since.Add(-time.Minute)) {
			continue
		}
		shows, answered := w.shows(ctx, h, p)
		switch {
		case !answered:
		case shows:
			s.looks = 0
		default:
			if s.looks++; s.looks >= 5 {
				w.f.found("%s stands still on %s without a sign since %.0f s", p.id, h.name, time.Since(s.since).Seconds())
				s.told = true
			}
		}
		w.frozen[p] = s
	}
}

// shows tells whether a host says that the phone stands still, and whether the host answers at all.
func (w *watcher) shows(ctx context.Context, h *host, p *phone) (shows, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := h.socket.Instances(ctx)
	frozen, err2 := h.metric(ctx, "holdfast_frozen_instances")
	if err != nil || err2 != nil {
		since, ok := w.silent[h]
		switch {
		case !ok:
			w.silent[h] = time.Now()
		case ok && time.Since(since) > time.Minute && h.well(time.Minute):
			w.f.found("%s does not answer its operator: %v, %v", h.name, err, err2)
			delete(w.silent, h)
		}
		return false, false
	}
	delete(w.silent, h)
	for _, i := range list {
		if i.ID == p.id {
			return i.Stage != "" && frozen > 0, true
		}
	}
	return false, true
}
