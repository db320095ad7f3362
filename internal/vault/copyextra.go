package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
	"holdfast/internal/vault/index"
	"holdfast/internal/vault/secondlook"
)

// removeExtra removes from the destination the backups that the source's retention
// has forgotten: first the manifests, and when these are gone, the packs
// and segments that no manifest of the destination names.
//
// A backup goes only where a record says that a copy has put the backup, and where no hold of the
// destination keeps the backup. A backup that a host made in the destination stays. A pack stays as
// long as any manifest of the destination names the pack, also where the source has lost the pack:
// then the destination has the last copy.
func (c *copier) removeExtra(ctx context.Context) error {
	if len(c.report.Failed)+len(c.leftOut) > 0 {
		c.warn(errors.New("nothing is removed from the destination, since not all objects of the source could be copied"))
		return nil
	}
	if err := c.aloneAtDestination(ctx); err != nil {
		return err
	}
	forgotten, foreign, err := c.forgotten(ctx)
	if err != nil {
		return err
	}
	if foreign > 0 {
		c.warn(fmt.Errorf("%d backups of the destination were not put there by a copy: they and their packs stay", foreign))
	}
	held, err := c.heldAtDestination(ctx, forgotten)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		c.warn(fmt.Errorf("%d backups that the source has forgotten stay, since holds keep them in the destination", len(held)))
		forgotten = backupsWithout(forgotten, held)
		foreign += len(held)
	}
	going := backupSet(forgotten)
	named, err := c.namedAtDestination(ctx, going)
	if err != nil {
		return err
	}
	now, err := c.listDestination(ctx)
	if err != nil {
		return err
	}
	var packs []string
	lost := 0
	for _, p := range comparePackRefs(c.from.packs, now.packs).extra {
		ofSource, needed := named[p.ID]
		if !needed {
			packs = append(packs, c.dst.packKey(p.ID))
		} else if ofSource && !c.movedPacks[p.ID] {
			lost++
		}
	}
	if lost > 0 {
		c.warn(fmt.Errorf("the source has lost %d packs that its backups need, and the destination has them: "+
			"holdfast verify names them; copy them back", lost))
	}
	var segments []string
	if foreign == 0 { // else a segment may tell of the packs of these backups
		for _, p := range comparePackRefs(c.from.index, now.index).extra {
			segments = append(segments, c.dst.index().Key(index.SegmentID(p.ID)))
		}
	}
	c.report.Backups.Extra, c.report.Packs.Extra, c.report.Index.Extra = len(forgotten)+foreign, len(packs), len(segments)
	if !c.o.AllowEmptied && (2*len(forgotten) > len(now.backups) || 2*len(packs) > len(now.packs)) {
		return fmt.Errorf("%w: %d of its %d backups and %d of its %d packs are not needed any more, if the source is right",
			ErrEmptied, len(forgotten), len(now.backups), len(packs), len(now.packs))
	}
	if err := c.removeBackups(ctx, forgotten); err != nil {
		return err
	}
	if err := c.aloneAtDestination(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		keys  []string
		count *CopyCount
	}{{segments, &c.report.Index}, {packs, &c.report.Packs}} {
		if err := c.dst.st.Delete(ctx, s.keys...); err != nil {
			return fmt.Errorf("copy: destination: remove packs that the source does not have any more: %w", err)
		}
		s.count.Removed = len(s.keys)
	}
	return c.mergeRecords(ctx)
}

// aloneAtDestination is ErrInUse or ErrCollected where others are at work in the destination.
func (c *copier) aloneAtDestination(ctx context.Context) error {
	if err := c.alone(ctx); err != nil {
		return err
	}
	stand, _, err := c.dst.listSessions(ctx, "")
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	stand = slices.DeleteFunc(stand, func(info obs.Info) bool { return c.owns(c.dst.sessionOf(info)) })
	if len(stand) > 0 {
		return fmt.Errorf("copy to %s: %w: %d sessions stand in the destination; wait until they end, or see holdfast vault sessions", c.dst.st, ErrInUse, len(stand))
	}
	return nil
}

// forgotten returns the backups that a copy has put into the destination and that the source has
// no more, and how many others the source does not have.
func (c *copier) forgotten(ctx context.Context) (forgotten []BackupRef, foreign int, err error) {
	recorded, _, err := c.records(ctx)
	if err != nil {
		return nil, 0, err
	}
	there, err := c.dst.Backups(ctx, "")
	if err != nil {
		return nil, 0, fmt.Errorf("copy: destination: %w", err)
	}
	now, err := c.src.Backups(ctx, "")
	if err != nil {
		return nil, 0, fmt.Errorf("copy: source: %w", err)
	}
	at := backupSet(now)
	for _, ref := range there {
		name := backupName(ref)
		switch {
		case c.kept[name] && at[name]:
		case at[name]:
			return nil, 0, fmt.Errorf("copy to %s: backup %s came to the destination meanwhile: another copy is at work there; let one end, and copy again", c.dst.st, name)
		case recorded[name]:
			forgotten = append(forgotten, ref)
		default:
			foreign++
		}
	}
	return forgotten, foreign, nil
}

// namedAtDestination returns the packs that the manifests of the destination name which stay. The
// value tells whether the source has one of these manifests too.
func (c *copier) namedAtDestination(ctx context.Context, going map[string]bool) (map[PackID]bool, error) {
	all, err := c.dst.Backups(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("copy: destination: %w", err)
	}
	named := map[PackID]bool{}
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(copyInFlight)
	for _, ref := range backupsWithout(all, going) {
		g.Go(func() error {
			m, err := c.dst.Manifest(gctx, ref)
			if err != nil {
				return fmt.Errorf("copy: destination: nothing is removed, since a manifest there does not tell its packs: %w", err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, p := range m.Packs {
				named[p.ID] = named[p.ID] || c.kept[backupName(ref)]
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return named, c.nameMovedAtDestination(ctx, named)
}

// removeBackups removes manifests, and makes sure that they are gone.
func (c *copier) removeBackups(ctx context.Context, refs []BackupRef) error {
	if len(refs) == 0 {
		return nil
	}
	keys := make([]string, len(refs))
	for i, ref := range refs {
		keys[i] = c.dst.manifestKey(ref.Instance, ref.ID)
	}
	if err := c.announced(ctx, refs, keys); err != nil {
		return fmt.Errorf("remove the backups that the source has forgotten: %w", err)
	}
	now, err := c.dst.Backups(ctx, "")
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	there := backupSet(now)
	for _, ref := range refs {
		if there[backupName(ref)] {
			return fmt.Errorf("copy to %s: backup %s was deleted and is still listed, so its packs stay: "+
				"look whether its lock has not ended, and copy again later", c.dst.st, backupName(ref))
		}
	}
	c.report.Backups.Removed = len(refs)
	return nil
}

// mergeRecords puts the records of many copies together
// in one record of the backups that are still there.
func (c *copier) mergeRecords(ctx context.Context) error {
	names, keys, err := c.records(ctx)
	if err != nil || len(keys) <= recordsKept {
		return err
	}
	there, err := c.dst.Backups(ctx, "")
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	present := backupSet(there)
	maps.DeleteFunc(names, func(name string, _ bool) bool { return !present[name] })
	there = slices.DeleteFunc(there, func(r BackupRef) bool { return !names[backupName(r)] })
	if _, err := c.putRecord(ctx, there); err != nil {
		return err
	}
	if err := c.dst.st.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	return nil
}

// verify reads each object of the copy on both sides, and compares the bytes.
func (c *copier) verify(ctx context.Context) error {
	var jobs []copyJob
	both := func(from, to []PackRef, job func(PackRef) copyJob) {
		for _, p := range from {
			if q, has := findRef(to, p.ID); has && q.Size == p.Size && !c.gone[p.ID] {
				jobs = append(jobs, job(p))
			}
		}
	}
	both(c.from.packs, c.to.packs, c.packJob)
	both(c.from.index, c.to.index, c.segmentJob)
	jobs = append(jobs, c.noteJobs()...)
	there := backupSet(c.to.backups)
	for _, ref := range c.from.backups {
		if there[backupName(ref)] {
			jobs = append(jobs, c.manifestJob(ref))
		}
	}
	return c.each(ctx, jobs, 2, c.compareBoth)
}

// compareBoth compares one object of both sides. Where
// they differ both are read again, over new connections.
func (c *copier) compareBoth(ctx context.Context, j copyJob, buf *[]byte) error {
	differ, err := c.differ(ctx, j, buf)
	if err == nil && differ {
		differ, err = c.differ(obs.Afresh(ctx), j, buf)
	}
	switch {
	case errors.Is(err, obs.ErrNotFound):
		return nil // the source has deleted the object meanwhile
	case ofObject(err):
		return c.file(j.key, err)
	case err != nil:
		return fmt.Errorf("copy: verify: %w", err)
	case differ:
		return c.file(j.key, c.whichSide(ctx, j, buf))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Verified++
	c.report.VerifiedBytes += uint64(j.size)
	return nil
}

func (c *copier) differ(ctx context.Context, j copyJob, buf *[]byte) (bool, error) {
	body, err := readWhole(ctx, c.src.st, j.key, j.size, buf)
	if err != nil {
		return false, err
	}
	switch is, err := compare(ctx, c.dst.st, j.key, body); is {
	case sameBytes:
		return false, nil
	case otherBytes:
		return true, nil
	case missing:
		return false, &CorruptError{Object: j.key, Reason: "is missing from the destination"}
	default:
		return false, err
	}
}

// whichSide tells on which side an object is damaged that differs.
func (c *copier) whichSide(ctx context.Context, j copyJob, buf *[]byte) error {
	if c.o.Vault == nil {
		return errDiffers
	}
	for _, side := range []struct {
		st   obs.Store
		name string
	}{{c.src.st, "source"}, {c.dst.st, "destination"}} {
		body, err := readWhole(obs.Afresh(ctx), side.st, j.key, j.size, buf)
		if err == nil {
			err = j.check(ctx, body)
		}
		if secondlook.Damaged(err) {
			return &CorruptError{Object: j.key, Reason: fmt.Sprintf("is damaged in the %s (%v); remove the object there, and bring it from the other side", side.name, err)}
		}
	}
	return errDiffers
}
