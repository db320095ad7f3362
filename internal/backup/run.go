package backup

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"holdfast/internal/backup/blockshare"
	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// run is one call of Run.
type run struct {
	o       Options
	w       *vault.Writer
	packs   *vault.NamedPacks
	job     *Job
	first   bool // nothing was tried before
	session *session
	slot    *slot
	history *known.History // nil until the run has its session
	lost    []vault.PackID // packs that can't be used
	without []vault.PackID // those, and the condemned packs
	sending *blockshare.Arrivals
	counts  struct{ entries, files, unchanged, known, read, fresh, sent, checked, excluded atomic.Uint64 }
	// bytes of content read from the vault to compare databases with
	former atomic.Int64
	// the counts of the recipes; counts has the counts of the walk
	recorded struct{ entries, files, dirs atomic.Uint64 }
	checks   sampler
	images   []string // volumes that are
	walked   atomic.Bool

	governor *governor
	started  time.Time     // of the process's clock: what waiting is compared with
	booted   time.Duration // Options.Clock when the run began

	warnings tree.Collector
	losses   losses
	res      Result
}

func (r *run) stage(name string, since *time.Time) {
	now := time.Now()
	r.res.Stages[name] += now.Sub(*since)
	*since = now
}

// picks tells whether something that was taken as unchanged is to be checked.
// Never where no sample is read back either: there is no time for it.
func (r *run) picks() bool { return r.o.Sample > 0 && r.checks.pick() }

// rest makes a pause after work that began then, when
// the host is under pressure and the backup can wait.
func (r *run) rest(ctx context.Context, began time.Time) error {
	if !r.o.Precopy {
		return nil
	}
	// whoever rests when all is done has done it
	if err := r.o.Pool.Brake.Rest(ctx, time.Since(began)); err != nil && !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// errEnded is the cause that ends the workers of a volume that is done.
var errEnded = errors.New("volume is done")
