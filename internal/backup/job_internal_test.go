package backup

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestJobsNameTheirInstances: jobs that share a session each tell
// other hosts of their instance, until they are over.
func TestJobsNameTheirInstances(t *testing.T) {
	v := smallPacks(t, obs.NewMemory())
	h := NewPool(PoolOptions{})
	look := func() string {
		t.Helper()
		found, err := v.Elsewhere(t.Context(), "another host", time.Hour, "i", "j")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(slices.Sorted(maps.Keys(found.Writes)))
	}
	var jobs []*Job
	for _, id := range []string{"i", "j"} {
		j := h.BeginJob()
		for range 2 { // its rounds
			if _, err := j.under(t.Context(), v, vault.SessionOptions{Host: "host-1", Instance: id}); err != nil {
				t.Fatal(err)
			}
		}
		jobs = append(jobs, j)
	}
	if jobs[0].session != jobs[1].session {
		t.Fatal("the jobs share no session")
	}
	if got := look(); got != "[i j]" {
		t.Errorf("both at work: %s", got)
	}
	if err := jobs[0].End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != "[j]" {
		t.Errorf("the first is over: %s", got)
	}
	if err := errors.Join(jobs[0].End(t.Context()), jobs[1].End(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left, err := v.Sessions(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}
