package job

import (
	"context"
	"errors"
	"fmt"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

// Chain has the backups of an instance, as one look at the vault found them, and the backups from
// which they came. It is for one goroutine.
type Chain interface {
	// Newest is as Restorer.Newest.
	Newest(ctx context.Context) (model.Content, error)
	// Relate tells how the newest backup relates to the backup that this host knows, and
	// which backup the host truly knows: a backup of known.Tried where the vault has it,
	// since this host made it of the volumes without hearing that it was stored. newest
	// is zero where the vault has none, or several; the relation is RelationNone then.
	Relate(known, newest model.Content) (prepare.Relation, model.Content)
}

// Chainer looks how the backups of an instance descend from each other. A Restorer that is none
// knows sequence numbers only.
type Chainer interface {
	Chain(ctx context.Context, instance, tenant string) (Chain, error)
}

// facts looks at the instance, its volumes, the journal and the vault. An instance that runs and
// has all of its volumes is ready, whether the store answers or not.
func (w *worker) facts(ctx context.Context, j *model.Job, instance Instance) (f prepare.Facts, err error) {
	restorer := w.m.parts.Restorer
	f = prepare.Facts{Holds: instance.Holds, Start: w.m.opts.StartRestored}
	if f.Found, err = w.user(ctx, j, instance); err != nil {
		return f, fmt.Errorf("look at the instance: %w", err)
	}
	if f.Known, err = w.m.journal.Content(j.Instance); err != nil {
		return f, fmt.Errorf("read the journal: %w", err)
	}
	if f.Volumes, err = restorer.Look(ctx, j.Instance, j.Tenant, f.Known); err != nil {
		return f, fmt.Errorf("look at the volumes: %w", err)
	}
	if f.Found == model.IsRunning {
		// The vault only adds a warning to a decision that is clear already.
		short, cancel := context.WithTimeout(ctx, askVault)
		defer cancel()
		ctx = short
	}
	return f, w.backupToRestore(ctx, j, &f)
}

// backupToRestore fills in the backup to restore, and the operator's words about it.
func (w *worker) backupToRestore(ctx context.Context, j *model.Job, f *prepare.Facts) error {
	restorer := w.m.parts.Restorer
	f.Chosen = j.Chosen != ""
	var chain Chain
	var chainErr error
	if chainer, ok := restorer.(Chainer); ok {
		chain, chainErr = chainer.Chain(ctx, j.Instance, j.Tenant)
	}
	switch {
	case f.Chosen:
		f.Newest, f.NewestErr = restorer.Backup(ctx, j.Instance, j.Tenant, j.Chosen)
	case chainErr != nil:
		f.NewestErr = chainErr
	case chain != nil:
		f.Newest, f.NewestErr = chain.Newest(ctx)
	default:
		f.Newest, f.NewestErr = restorer.Newest(ctx, j.Instance, j.Tenant)
	}
	f.Settle(j.Tenant)
	if err := w.relateFacts(f, chain, chainErr); err != nil {
		return err
	}
	// Nobody looks whether another vault still has the known backup.
	f.KnownLost = f.Known.Vault != "" && f.Newest.Vault != "" && f.Known.Vault != f.Newest.Vault
	switch f.Relation {
	case prepare.RelationBehind, prepare.RelationFork:
		accepted, err := w.m.journal.AcceptedLoss(j.Instance)
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		f.Accepted = accepted.Covers(f.Known, f.Newest)
		if f.NewestErr == nil {
			_, err = restorer.Backup(ctx, j.Instance, j.Tenant, f.Known.Backup)
		}
		f.KnownLost = f.KnownLost || f.NewestErr != nil || err != nil
	case prepare.RelationNone, prepare.RelationSame, prepare.RelationAhead:
	}
	return nil
}

// relateFacts completes the facts with the chain of the instance's
// backups; nil where there is none, and chainErr says why.
func (w *worker) relateFacts(f *prepare.Facts, chain Chain, chainErr error) error {
	if chain == nil && chainErr == nil || f.NewestErr != nil && !errors.Is(f.NewestErr, model.ErrNoBackup) {
		f.Relation = prepare.Relate(f.Known, f.Newest)
		return nil
	}
	if chainErr != nil {
		if f.Found == model.IsRunning {
			f.Relation = prepare.RelationNone // it is not restored in any case
			return nil
		}
		return fmt.Errorf("look from which backup the newest one came: %w", chainErr)
	}
	relation, known := chain.Relate(f.Known, f.Newest)
	if known.Backup != f.Known.Backup {
		for i := range f.Volumes {
			if v := &f.Volumes[i]; v.Backup.Backup == f.Known.Backup && v.Presence != prepare.VolumeMissing && v.Origin != prepare.OriginForeign {
				v.Backup = known
				// nothing proves that the present content is the backed-up content
				if v.Origin == prepare.OriginSame || v.Origin == prepare.OriginUnknown {
					v.Origin = prepare.OriginChanged
				}
			}
		}
	}
	f.Known, f.Relation = known, relation
	return nil
}
