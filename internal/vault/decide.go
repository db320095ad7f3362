package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"
)

// Two hosts may decide one fork at the same moment, each for a backup of its own. As with claims,
// no conditional put is needed: a host that decides puts the decision, and lists the decisions
// after that. Of two hosts at least one sees the other, and withdraws the decision that it put.
// Where three decide at the same moment, one may name a decision that is withdrawn after that.

const (
	// decideRounds is how often a decision is withdrawn, since
	// others decide too, until the caller is told.
	decideRounds = 10
	// decidePause is the longest pause after the first withdrawal.
	decidePause = 200 * time.Millisecond
)

// DecidedError says that a fork is decided already, and that another backup counts.
type DecidedError struct{ Decision Decision }

func (e *DecidedError) Error() string {
	d := e.Decision
	return fmt.Sprintf("the fork of instance %s is decided already: backup %s counts, by %s on host %s, at %s by the clock there",
		d.Instance, d.Backup, d.By, d.Host, d.Time.UTC().Format("2006-01-02 15:04:05Z"))
}

// AcceptFirst is Accept where nobody has decided yet: the first decision about
// a fork counts. *DecidedError where the backup gave way to another one.
func (v *Vault) AcceptFirst(ctx context.Context, instance, id, host, by string) ([]BackupRef, error) {
	for round := range decideRounds {
		others, again, err := v.accept(ctx, instance, id, host, by, false)
		if err != nil || !again {
			return others, err
		}
		select {
		case <-time.After(mathrand.N(decidePause * time.Duration(round+1))):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, fmt.Errorf("accept %s of instance %s: other hosts decide the fork at the same moment; try again", id, instance)
}

// Decided returns the decision by which the fork with the backup of that id has ended. nil while
// the instance has several heads, and where it has several tips for no decision.
func (v *Vault) Decided(ctx context.Context, instance, id string) (*Decision, error) {
	l, err := v.Lineage(ctx, instance)
	if err != nil {
		return nil, err
	}
	if len(l.Heads()) != 1 {
		return nil, nil //nolint:nilnil // nobody has decided
	}
	var last *Decision
	for _, t := range l.Tips() {
		d, gave := l.over[t.ID]
		switch {
		case !gave:
		case l.Descends(t.ID, id):
			return &d, nil
		case last == nil || last.Number < d.Number:
			last = &d
		}
	}
	return last, nil
}

// accept is one try of Accept. With anew it decides a fork that is decided; without anew retry
// says that another host decided at the same moment, and that nothing of this try is left.
func (v *Vault) accept(ctx context.Context, instance, id, host, by string, anew bool) (others []BackupRef, retry bool, err error) {
	refs, err := v.Backups(ctx, instance)
	if err != nil {
		return nil, false, err
	}
	// The lineage rests on the very decisions with which those after the put are compared.
	before, err := v.Decisions(ctx, instance)
	if err != nil {
		return nil, false, err
	}
	l := LineageOf(refs)
	for _, d := range before {
		l.decide(d)
	}
	tip, err := l.tipOf(instance, id)
	if err != nil {
		return nil, false, err
	}
	heads := l.Heads()
	others = slices.DeleteFunc(slices.Clone(heads), func(r BackupRef) bool { return r.ID == tip.ID })
	accepted := len(others) < len(heads)
	switch {
	case len(others) == 0 && accepted:
		return nil, false, nil
	case !accepted && !anew:
		return nil, false, &DecidedError{l.over[tip.ID]}
	case len(others) > maxOver:
		return nil, false, fmt.Errorf("accept %s of instance %s: it has %d newest backups, more than the %d of one decision", id, instance, len(others), maxOver)
	}
	d := Decision{Instance: instance, Number: 1, Backup: id, Host: host, Time: time.Now().UTC(), By: by}
	if n := len(before); n > 0 {
		d.Number = before[n-1].Number + 1
	}
	for _, r := range others {
		d.Over = append(d.Over, r.ID)
	}
	if err := v.putDecision(ctx, &d); err != nil || anew {
		return others, false, err
	}
	now, err := v.Decisions(ctx, instance)
	if err != nil {
		return nil, false, fmt.Errorf("look whether another host decided at the same moment: %w", err)
	}
	for _, o := range now {
		seen := slices.ContainsFunc(before, func(b Decision) bool { return b.name == o.name })
		if o.name != d.name && !seen && !l.Descends(o.Backup, id) && !l.Descends(id, o.Backup) {
			return nil, true, v.withdrawDecision(ctx, d)
		}
	}
	return others, false, nil
}

// tipOf returns the one tip that the backup of that id is, or that descends from it.
func (l *Lineage) tipOf(instance, id string) (BackupRef, error) {
	tips := l.Tips()
	if !slices.ContainsFunc(l.refs, func(r BackupRef) bool { return r.ID == id }) {
		return BackupRef{}, fmt.Errorf("accept %q of instance %s: %w: the newest of its branches are %s", id, instance, ErrNoBackup, idsOf(tips))
	}
	of := slices.DeleteFunc(slices.Clone(tips), func(r BackupRef) bool { return !l.Descends(r.ID, id) })
	if len(of) != 1 { // several: that decides nothing
		return BackupRef{}, fmt.Errorf("accept %s of instance %s: %w: those are %s", id, instance, ErrNoHead, idsOf(tips))
	}
	return of[0], nil
}

// putDecision stores a decision, and gives it the name of its object.
func (v *Vault) putDecision(ctx context.Context, d *Decision) error {
	if d.Number > maxSeq {
		return fmt.Errorf("accept %s of instance %s: a decision has the last number that there is", d.Backup, d.Instance)
	}
	var r [8]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	d.name = fmt.Sprintf("%s/%08d-%s", d.Instance, d.Number, hex.EncodeToString(r[:]))
	object, err := v.sealSmall("decision", decisionMagic, d.name, &decisionBody{Backup: d.Backup, Over: d.Over, Host: d.Host, Time: d.Time, By: d.By})
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.decisionsPrefix()+d.name, object); err != nil {
		return fmt.Errorf("store the decision about the fork of instance %s: %w", d.Instance, err)
	}
	return nil
}

// withdrawDecision removes a decision that was put at the same moment as another one.
func (v *Vault) withdrawDecision(ctx context.Context, d Decision) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := v.st.Delete(ctx, v.decisionsPrefix()+d.name); err != nil {
		return fmt.Errorf("withdraw the decision about the fork of instance %s: %w", d.Instance, err)
	}
	return nil
}
