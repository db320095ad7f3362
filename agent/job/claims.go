package job

import (
	"context"
	"fmt"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/contain"
)

// Claimer claims instances in the vault, so that a second host that prepares one is told before any
// harm is done. A Restorer that is none claims nothing.
type Claimer interface {
	// Claim claims the instance of a restore for this host; newest is the backup
	// of the restore. An error says which other host has the instance. A warning
	// tells of a claim that was taken over, or that nothing could be claimed.
	Claim(ctx context.Context, j *model.Job, newest model.Content) (warning string, err error)
	// Unclaim removes the claim of this host on the instance of a job. No claim is no error.
	Unclaim(ctx context.Context, j *model.Job) error
}

// askVault is for how long the vault is asked about an instance that is not going to be restored.
const askVault = 10 * time.Second

// unclaimTime bounds the removal of a claim, for which a report waits.
const unclaimTime = 10 * time.Second

// unclaim lets go of the claim on an instance that is down, before anybody is told of the release:
// the next host may prepare the instance at once. A claim that can't be removed now goes later.
func (w *worker) unclaim(ctx context.Context, j *model.Job) {
	claimer, ok := w.m.parts.Restorer.(Claimer)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, unclaimTime)
	defer cancel()
	if err := contain.Call(func() error { return claimer.Unclaim(ctx, j) }); err != nil {
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "let go of the claim on the instance", err)
	}
}

// claim claims the instance right before the restore is journalled; nothing that follows fails the
// job with the claim left behind. An instance that runs here stays as it is, whoever claims it.
func (w *worker) claim(ctx context.Context, j *model.Job, f prepare.Facts, r *model.Restore) error {
	claimer, ok := w.m.parts.Restorer.(Claimer)
	if !ok {
		return nil
	}
	running := f.Found == model.IsRunning
	if running {
		short, cancel := context.WithTimeout(ctx, askVault)
		defer cancel()
		ctx = short
	}
	warning, err := claimer.Claim(ctx, j, f.Newest)
	switch {
	case err != nil && running:
		warning = err.Error()
	case err != nil:
		return fmt.Errorf("claim the instance for this host: %w", err)
	}
	if !running && j.Chosen == "" {
		// Another host may have stored a backup, and let
		// go of its claim, since the facts were gathered.
		now, err := w.m.parts.Restorer.Newest(ctx, j.Instance, j.Tenant)
		if err != nil {
			return fmt.Errorf("look for the newest backup after the claim: %w", err)
		}
		if now.Backup != f.Newest.Backup {
			return fmt.Errorf("another host stored backup %s while the restore of %s was decided; command it again", now.Backup, f.Newest.Backup)
		}
	}
	if warning != "" && r.Warning != "" {
		warning = r.Warning + "; " + warning
	}
	if warning != "" {
		r.Warning = warning
	}
	return nil
}
