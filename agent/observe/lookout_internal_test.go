package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"holdfast/agent/journal"
	"holdfast/agent/metrics"
	"holdfast/agent/model"
)

// quietHost has no job, no report and no record in trouble.
type quietHost struct{}

func (quietHost) Active() ([]*model.Job, error)                       { return nil, nil }
func (quietHost) Unknown() ([]journal.UnknownRecord, error)           { return nil, nil }
func (quietHost) Refused() ([]model.Refused, error)                   { return nil, nil }
func (quietHost) Heads(int, func(string) bool) ([]model.Event, error) { return nil, nil }
func (quietHost) Path() string                                        { return "/nowhere/journal" }
func (quietHost) Probe(time.Time) error                               { return nil }
func (quietHost) Looks() bool                                         { return false }
func (quietHost) Full() bool                                          { return false }
func (quietHost) HoldTurns() (int, uint64)                            { return 0, 0 }
func (quietHost) Leftovers() ([]model.Leftover, error)                { return nil, nil }

// TestLookoutRanksAndBounds: the most urgent trouble comes first and of one kind the oldest. A
// trouble that comes and goes in good order is not shown at once. A long list of one kind is cut
// off, and tells the number of the others.
func TestLookoutRanksAndBounds(t *testing.T) {
	w := NewWatcher(slog.New(slog.DiscardHandler), metrics.New(metrics.Options{}), nil)
	var found []Sighting
	hasty := false
	l := NewLookout(Sources{
		Log: slog.New(slog.DiscardHandler), Watcher: w, Journal: quietHost{}, Jobs: quietHost{},
		Writes:     NewJournalHealth(quietHost{}, t.TempDir(), w, func() error { return nil }),
		Configured: func(string) bool { return true }, Changed: func(*model.Job) error { return nil },
		Parts: func() []Sighting { return slices.Clone(found) }, Disks: func(context.Context) []Sighting { return nil },
		Hasty: func() bool { return hasty },
	})
	names := func() (all []string) {
		t.Helper()
		troubles, err := l.Troubles()
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range troubles {
			all = append(all, fmt.Sprintf("%s %s +%d", one.Name, one.InstanceID, one.More))
			if one.Hint == "" {
				t.Errorf("%s has no hint", one.Name)
			}
		}
		return all
	}
	why := errors.New("a reason")
	found = []Sighting{
		{Name: TroubleFork, Instance: "young", Age: time.Second, Dated: true, Err: why},
		{Name: TroubleRecovery, Err: why},
		{Name: TroubleFork, Instance: "old", Age: time.Hour, Dated: true, Err: why},
		{Name: TroubleCopied, Err: why},
	}
	if got, want := names(), []string{TroubleCopied + "  +0", TroubleFork + " old +0", TroubleFork + " young +0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	hasty = true
	if got := names(); len(got) != 4 || got[3] != TroubleRecovery+"  +0" {
		t.Errorf("at once: %q", got)
	}
	found = nil
	for i := range maxShownTroubles + 2 {
		found = append(found, Sighting{Name: TroubleJob, Instance: fmt.Sprintf("phone-%02d", i), Age: time.Hour, Dated: true, Err: why})
	}
	if got := names(); len(got) != maxShownTroubles || got[0] != TroubleJob+" phone-00 +2" {
		t.Errorf("of many: %q", got)
	}
	_, now, err := l.Look()
	if err != nil || now.Troubles[TroubleJob].Count != maxShownTroubles+2 {
		t.Errorf("the figures: %+v, %v", now.Troubles, err)
	}
}
