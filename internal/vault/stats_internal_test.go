package vault

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// TestStats: each pack counts once, as unique to an instance, as shared, or as garbage.
func TestStats(t *testing.T) {
	p := newScene(t)
	both, one, old := p.pack(), p.pack(), p.pack()
	first := p.manifest(both, old)
	second := p.manifest(both, one)
	second.NewBytes, second.Created, second.Bytes = 77, time.Now(), 700
	other := p.manifest(both, p.pack(), PackRef{ID: PackID{99}, Size: 200})
	other.Instance = "j"
	for _, m := range []*Manifest{first, second, other} {
		p.must(p.v.WriteManifest(t.Context(), m))
	}
	p.forget(first)
	p.pack() // garbage
	got, err := p.v.Stats(t.Context(), time.Now().Add(-time.Hour))
	p.must(err)
	want := Stats{Backups: 3, Packs: 5, Bytes: 1000, Shared: 200, Garbage: 1, GarbageBytes: 200, Forgotten: 200, Missing: 1, Grown: 77}
	instances := got.Instances
	if got.Instances = nil; len(instances) != 2 || got.Bytes != want.Bytes || got.Backups != 3 || got.Packs != 5 || got.Shared != 200 ||
		got.Garbage != 1 || got.GarbageBytes != 200 || got.Forgotten != 200 || got.Missing != 1 || got.Grown != 77 {
		t.Fatalf("got %+v with %+v, want %+v", got, instances, want)
	}
	i, j := instances[0], instances[1]
	if i.Instance != "i" || i.Backups != 2 || i.Forgotten != 1 || i.Unique != 400 || i.Shared != 200 || i.Grown != 77 || i.Content != 700 {
		t.Errorf("instance i: %+v", i)
	}
	if j.Instance != "j" || j.Backups != 1 || j.Unique != 200 || j.Shared != 200 || j.Grown != 0 {
		t.Errorf("instance j: %+v", j)
	}
}

// TestStatsBesideADamagedMark: a mark that does not open is named, and its backup counts as not
// forgotten. A store that does not answer is an error all the same.
func TestStatsBesideADamagedMark(t *testing.T) {
	p := newScene(t)
	all := p.backups(2)
	p.forget(all[0])
	name := fullName(referTo(all[1])) + "." + randomName()
	p.must(p.v.st.Put(t.Context(), p.v.forgottenPrefix()+name, []byte("junk")))
	got, err := p.paused.Stats(t.Context(), time.Now())
	if err != nil || len(got.Instances) != 1 || got.Instances[0].Forgotten != 1 || !strings.Contains(got.DamagedMarks, name) {
		t.Errorf("stats: %+v, %v", got, err)
	}
	p.st.once("list", "forgotten", func() error { return obs.ErrUnavailable })
	if _, err := p.paused.Stats(t.Context(), time.Now()); !errors.Is(err, obs.ErrUnavailable) {
		t.Errorf("stats of a store that does not answer: %v", err)
	}
}
