package job

import (
	"context"
	"fmt"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
)

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

// ofTenant is the job's instance as the configuration has it now; an
// error where the configuration has given the instance to another tenant
// since the command: neither tenant's bytes may get to the other.
func (w *worker) ofTenant(j *model.Job) (Instance, error) {
	instance, err := w.m.parts.Instance(j.Instance)
	if err == nil && instance.Tenant != j.Tenant {
		err = fmt.Errorf("the command is of tenant %q, and the configuration gives the instance to tenant %q by now; command it anew", j.Tenant, instance.Tenant)
	}
	return instance, err
}
