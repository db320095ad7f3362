package vault

import (
	"testing"
	"time"
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
