package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/agent/api"
	"holdfast/agent/job"
	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup"
	"holdfast/internal/vault"
)

// forkTime bounds the look at who made the other backups of a fork: an instance is held meanwhile.
const forkTime = 10 * time.Second

// contentOrigin tells the engine from which backup the content of an instance's volumes came. A
// backup in another vault says nothing about this vault.
func contentOrigin(c model.Content, vaultID string) *backup.Origin {
	if c.Vault != "" && c.Vault != vaultID {
		return &backup.Origin{Tried: c.Tried}
	}
	return &backup.Origin{Backup: c.Backup, Tried: c.Tried}
}

// forksOf names the other newest backups beside a stored one, and tells of them.
func (v *vaults) forksOf(ctx context.Context, opened *vault.Vault, r job.BackupRequest, res *backup.Result) (forks []model.Fork) {
	if len(res.Fork) == 0 || r.Precopy {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, forkTime)
	defer cancel()
	v.a.metrics.Fork()
	for _, ref := range res.Fork {
		f := model.Fork{Backup: ref.ID}
		if m, err := opened.Manifest(ctx, ref); err == nil { // else nobody knows the host
			f.Host = m.Host
		}
		forks = append(forks, f)
		v.a.log.Error("a fork: another newest backup of the instance does not have what this one has, and the reverse; holdfast accept-fork decides which one counts",
			keyInstance, r.Instance, keyJob, r.Job, "backup", res.BackupID, "parent", res.Parent, "other", f.Backup, "host", f.Host)
	}
	return forks
}

// AcceptFork implements job.Forker.
func (v *vaults) AcceptFork(ctx context.Context, j *model.Job, d model.ForkDecision) (model.ForkDecision, error) {
	opened, err := v.existing(ctx, j.Tenant)
	if err != nil {
		return d, fmt.Errorf("open vault: %w", err)
	}
	accept := opened.AcceptFirst
	if d.Again {
		accept = opened.Accept
	}
	over, err := accept(ctx, j.Instance, d.Backup, v.a.cfg.HostID, d.By)
	var decided *vault.DecidedError
	if errors.As(err, &decided) {
		v.a.log.Warn("a fork was decided before, for another backup, and the first decision counts", keyInstance, j.Instance, keyJob, j.ID,
			"asked", d.Backup, "accepted", decided.Decision.Backup, "by", decided.Decision.By, "host", decided.Decision.Host)
		return v.decision(decided.Decision), nil
	} else if err != nil {
		return d, err
	}
	for _, ref := range over {
		v.a.log.Warn("a fork is decided", keyInstance, j.Instance, keyJob, j.ID, "accepted", d.Backup, "over", ref.ID, "by", d.By)
	}
	return d, nil
}

// Decided implements job.Forker.
func (v *vaults) Decided(ctx context.Context, j *model.Job) (model.ForkDecision, error) {
	opened, err := v.existing(ctx, j.Tenant)
	if err != nil {
		return model.ForkDecision{}, fmt.Errorf("open vault: %w", err)
	}
	d, err := opened.Decided(ctx, j.Instance, j.Result.BackupID)
	if d == nil || err != nil {
		return model.ForkDecision{}, err
	}
	return v.decision(*d), nil
}

// decision is a decision of the vault as the journal has it.
func (v *vaults) decision(d vault.Decision) model.ForkDecision {
	made := model.ForkDecision{Backup: d.Backup, By: d.By, Host: d.Host}
	if d.Host == v.a.cfg.HostID {
		made.Host = ""
	}
	return made
}

// watchForks looks from time to time whether another host decided the forks of which this host
// knows no decision, until ctx ends.
func (a *Agent) watchForks(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		a.learnForks(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// learnForks looks once. A vault that does not answer is asked again at the next look.
func (a *Agent) learnForks(ctx context.Context) {
	if a.standing.reason() != nil {
		return // the journal is to stay as it is
	}
	within, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := a.manager.LearnForks(within, slices.Sorted(maps.Keys(a.instances))); err != nil && ctx.Err() == nil {
		a.log.Warn("this host does not know whether a fork is decided on another host; the next look asks again", keyReason, err.Error())
	}
}

// chain is a job.Chain: the backups of an instance, as one list of the vault has them.
type chain struct {
	a          *Agent
	id, tenant string
	opened     *vault.Vault // nil: the tenant has no vault
	lineage    *vault.Lineage
}

// Chain implements job.Chainer. It makes no vault: a tenant without one has no backups.
func (r restores) Chain(ctx context.Context, id, tenant string) (job.Chain, error) {
	c := &chain{a: r.a, id: id, tenant: tenant}
	opened, err := r.a.vaults.existing(ctx, tenant)
	if errors.Is(err, vault.ErrNoVault) {
		return c, nil
	} else if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if c.lineage, err = opened.Lineage(ctx, id); err != nil {
		return nil, err
	}
	c.opened = opened
	return c, nil
}

// Newest implements job.Chain.
func (c *chain) Newest(ctx context.Context) (model.Content, error) {
	if c.opened == nil {
		return model.Content{}, fmt.Errorf("%w: its tenant has no vault", model.ErrNoBackup)
	}
	ref, err := c.lineage.Newest()
	if err != nil && !errors.Is(err, vault.ErrNoBackup) {
		return model.Content{}, err // a fork
	}
	newest := contentOf(c.opened, ref)
	newest.Tenant = c.tenant
	// A bucket that was set back to an earlier state lacks the newest backup, if this host made it.
	if lookErr := c.a.rolledBack(c.id, c.tenant, c.lineage, newest); lookErr != nil {
		return model.Content{}, lookErr
	}
	if err != nil {
		return model.Content{}, fmt.Errorf("%w: %w", model.ErrNoBackup, err)
	}
	newest.Volumes = volumesIn(ctx, c.opened, ref)
	return newest, nil
}

// Relate implements job.Chain.
func (c *chain) Relate(known, newest model.Content) (prepare.Relation, model.Content) {
	if known.Backup == "" && len(known.Tried) == 0 || c.opened == nil {
		return prepare.RelationNone, known
	}
	id := c.opened.Info().ID
	if known.Vault != "" && known.Vault != id {
		return prepare.RelationNone, known // it belongs to another vault
	}
	known = heardOf(c.lineage, known, id)
	switch {
	case known.Backup == "" || newest.Backup == "":
		return prepare.RelationNone, known
	case known.Backup == newest.Backup:
		return prepare.RelationSame, known
	case c.lineage.Descends(newest.Backup, known.Backup):
		return prepare.RelationAhead, known
	case c.lineage.Descends(known.Backup, newest.Backup):
		return prepare.RelationBehind, known
	}
	return prepare.RelationFork, known
}

// heardOf is this host's knowledge, with the last of
// the backups that it tried and that the vault has.
func heardOf(l *vault.Lineage, known model.Content, vaultID string) model.Content {
	tried := map[string]bool{}
	for _, id := range known.Tried {
		tried[id] = true
	}
	for _, ref := range l.Refs() {
		if tried[ref.ID] {
			known.Backup, known.Seq, known.Created, known.Vault = ref.ID, ref.Seq, ref.Time.UTC(), vaultID
			known.Released = false // the release was of an earlier backup
		}
	}
	return known
}

// lacks tells whether the vault lacks the last backup that this host made, and has no backup on
// top of it either.
func lacks(l *vault.Lineage, newest, last string) bool {
	there := slices.ContainsFunc(l.Refs(), func(r vault.BackupRef) bool { return r.ID == last })
	return !there && !l.Descends(newest, last)
}

// AcceptFork implements api.Forker.
func (s *service) AcceptFork(ctx context.Context, c model.Caller, id, backupID string, again bool) error {
	if _, err := s.visible(c, id); err != nil {
		return err
	}
	err := s.a.manager.AcceptFork(ctx, id, backupID, "an operator", again)
	var decided *job.ForkDecidedError
	switch {
	case errors.As(err, &decided):
		return api.RefuseInstances(api.CodeParameter, []string{id}, err.Error()+"; to decide again, say so (holdfast accept-fork --again)")
	case errors.Is(err, model.ErrState):
		return api.RefuseInstances(api.CodeParameter, []string{id}, "has no fork to decide: its last backup on this host descends from the newest one, or this host has made none")
	case errors.Is(err, vault.ErrNoHead), errors.Is(err, vault.ErrNoBackup):
		return api.Refuse(api.CodeParameter, "backup: %v", err)
	}
	return err
}

// forkTrouble tells of a fork of which nobody has decided; nil where there is none.
func forkTrouble(j *model.Job) error {
	if j == nil || !j.ForkOpen() {
		return nil
	}
	other := j.Result.Fork[0]
	host := other.Host
	if host == "" {
		host = "another host"
	}
	return fmt.Errorf("its backup %s does not descend from backup %s of %s, and the reverse", j.Result.BackupID, other.Backup, host)
}

// textFor is a text as far as the caller may know.
func (s *service) textFor(c model.Caller, text string) string {
	if c.SeesAll() {
		return text
	}
	return s.a.forTenant(text)
}
