package engine

import (
	"context"
	"time"

	"holdfast/internal/vault"
)

const (
	// settleEvery is how often the agent asks for the outcome of
	// backups in doubt. Where there is none, it costs nothing.
	settleEvery = 10 * time.Minute
	// settleTime bounds one such look at one vault: the requests of
	// the agent's store are repeated without an end.
	settleTime = time.Minute
)

// SettleAll resolves, for as long as the agent runs, the doubts in the vaults that are open.
func (v *Vaults) SettleAll(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.settle(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// settle looks once at each open vault.
func (v *Vaults) settle(ctx context.Context) {
	for _, opened := range v.opened(ctx) {
		within, cancel := context.WithTimeout(ctx, settleTime)
		done, err := opened.Settle(within)
		cancel()
		for _, so := range done {
			v.settled(so)
		}
		if err != nil && ctx.Err() == nil {
			v.log.Warn("what became of a backup is not known yet", "vault", opened.Info().ID, keyError, err.Error())
		}
	}
}

// settled logs the outcome of a backup whose job has ended as failed.
func (v *Vaults) settled(so vault.Settled) {
	if so.Exists {
		v.log.Info("a backup whose job failed exists after all", keyInstance, so.Backup.Instance, "backup", so.Backup.ID)
		return
	}
	v.log.Info("a backup whose job failed does not exist", keyInstance, so.Backup.Instance, "backup", so.Backup.ID, keyReason, so.Err.Error())
}
