package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/obs"
)

// Errors of Rekey that callers decide on.
var (
	// ErrLockOut says that after the change the caller's own key would not open the vault.
	ErrLockOut = errors.New("the key in use would no longer open the vault")
	// ErrRekeyed says that somebody else changed the recipients at the same moment. This change's
	// header was withdrawn, but the other's may rest on it: the caller looks and tries again.
	ErrRekeyed = errors.New("somebody else changed the vault's recipients at the same moment")
)

// Change is how a vault's recipients change.
type Change struct {
	Add    []string // age recipients; a recipient that is there already is no error
	Remove []string // each must be there
	// LockOut allows that none of the caller's keys opens the vault afterwards.
	LockOut bool
}

// Rekey wraps the vault's key anew, for the changed recipients, and returns the
// vault's new facts. Processes that have the vault open go on. Rekey does not
// change the vault's key: a removed recipient that kept that key or an old
// header still reads all present and future backups; only a new vault ends that.
//
// A crash leaves the old recipients or the new ones, and perhaps both headers, of which the newer
// counts; the next Rekey deletes the other. After an error that is obs.ErrUncertain the recipients
// may be the new ones. Of two at the same moment at most one succeeds; the other gets ErrRekeyed.
func (v *Vault) Rekey(ctx context.Context, id *Identity, c Change) (Info, error) {
	before, err := v.settledHeaders(ctx)
	if err != nil {
		return Info{}, err
	}
	at, h, s, err := newestHeader(ctx, v.st, v.info.ID, id)
	if err != nil {
		return Info{}, fmt.Errorf("rekey vault %s: %w", v.info.Name, err)
	}
	defer s.clear()
	if len(before) == 0 || before[len(before)-1].key != at.key {
		return Info{}, ErrRekeyed // what comes may be withdrawn again
	}
	if derive(s.Key, "meta") != v.meta {
		return Info{}, &CorruptError{Object: at.key, Reason: "is the header of another vault than the one that is open"}
	}
	if h.Recipients, err = c.apply(h.Recipients, id); err != nil {
		return Info{}, err
	}
	if h.Generation++; h.Generation > maxGeneration {
		return Info{}, fmt.Errorf("vault %s had %d headers, the format allows no more", v.info.Name, maxGeneration)
	}
	doc, err := sealHeader(h, s)
	if err != nil {
		return Info{}, err
	}
	// A lost signpost is put again here.
	if err := v.st.Put(ctx, signpostKey(v.info.ID), []byte(signpost)); err != nil {
		return Info{}, fmt.Errorf("write vault %s: %w", v.info.Name, err)
	}
	key := newHeaderKey(v.info.ID, h.Generation)
	if err := putHeader(ctx, v.st, key, doc, v.st.Put); err != nil {
		return Info{}, fmt.Errorf("write vault %s: %w", v.info.Name, err)
	}
	if err := v.settleHeader(ctx, key, doc, before); err != nil {
		return Info{}, err
	}
	slices.Sort(h.Recipients)
	h.Recipients = slices.Compact(h.Recipients) // as wrap did
	return infoOf(v.st, h, s), nil
}

// withdrawal is how long it is waited for that one of two headers of one generation is withdrawn.
const withdrawal = 3 * time.Second

// settledHeaders lists the headers, when no two of them are the newest:
// one of those lacks the change of the other and is about to be withdrawn,
// so nothing may be built on it. When they stay, a crash left them.
func (v *Vault) settledHeaders(ctx context.Context) ([]headerRef, error) {
	for end := time.Now().Add(withdrawal); ; {
		refs, err := headersOf(ctx, v.st, v.info.ID)
		n := len(refs)
		if err != nil || n < 2 || refs[n-1].generation != refs[n-2].generation || time.Now().After(end) {
			return refs, err
		}
		select {
		case <-time.After(withdrawal / 20):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// apply returns the recipients after the change.
func (c Change) apply(recipients []string, id *Identity) ([]string, error) {
	after := append(slices.Clone(recipients), c.Add...)
	for _, r := range c.Remove {
		if !slices.Contains(recipients, r) {
			return nil, fmt.Errorf("recipient %s is none of the vault's, so it can't be removed", r)
		}
		if slices.Contains(c.Add, r) {
			return nil, fmt.Errorf("recipient %s is to be added and removed", r)
		}
		after = slices.DeleteFunc(after, func(s string) bool { return s == r })
	}
	if len(after) == 0 {
		return nil, errors.New("the vault would have no recipient left, and nobody could read it any more")
	}
	mine := func(r string) bool { return slices.Contains(after, r) }
	if !c.LockOut && !slices.ContainsFunc(id.recipients(), mine) {
		return nil, ErrLockOut
	}
	return after, nil
}

// settleHeader makes sure that the store has the header just written and that nobody wrote another
// header since before was listed, and then deletes the older ones. When somebody did, it withdraws
// its own header: the second writer sees the first, and of two that see each other both withdraw.
func (v *Vault) settleHeader(ctx context.Context, key string, doc []byte, before []headerRef) error {
	back, err := readAll(ctx, v.st, key, maxHeader)
	if err != nil {
		return fmt.Errorf("the new recipients are written, but the header can't be read back, and the old one is still there: %w", err)
	}
	if !bytes.Equal(back, doc) {
		return &CorruptError{Object: key, Reason: "reads back as other bytes than were written"}
	}
	now, err := headersOf(ctx, v.st, v.info.ID)
	if err != nil {
		return err
	}
	var old []string
	for _, ref := range now {
		known := func(b headerRef) bool { return b.key == ref.key }
		switch {
		case ref.key == key:
		case slices.ContainsFunc(before, known):
			old = append(old, ref.key)
		default:
			if err := v.st.Delete(ctx, key); err != nil && !errors.Is(err, obs.ErrNotFound) {
				return fmt.Errorf("withdraw header %s: %w", key, err)
			}
			return ErrRekeyed
		}
	}
	if err := v.st.Delete(ctx, old...); err != nil {
		return fmt.Errorf("the recipients are changed, but an old header is still there: %w", err)
	}
	return nil
}
