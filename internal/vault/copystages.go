package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

// blobs copies the packs and index segments that the destination lacks.
func (c *copier) blobs(ctx context.Context) error {
	stages := []struct {
		from, to []PackRef
		count    *CopyCount
		job      func(PackRef) copyJob
		packs    bool
	}{
		{c.from.packs, c.to.packs, &c.report.Packs, c.packJob, true},
		{c.from.index, c.to.index, &c.report.Index, c.segmentJob, false},
	}
	for _, s := range stages {
		d := comparePackRefs(s.from, s.to)
		for _, p := range d.other {
			if err := c.file(s.job(p).key, errDiffers); err != nil {
				return err
			}
			if s.packs {
				c.failed[p.ID] = true
			}
		}
		var todo []PackRef
		var jobs []copyJob
		for _, p := range d.missing {
			if s.packs && (c.failed[p.ID] || c.gone[p.ID]) {
				continue
			}
			todo, jobs = append(todo, p), append(jobs, s.job(p))
		}
		ids := make(map[string]PackID, len(todo))
		for i, p := range todo {
			ids[jobs[i].key] = p.ID
		}
		err := c.each(ctx, jobs, 1, func(ctx context.Context, j copyJob, buf *[]byte) error {
			is, err := c.transfer(ctx, j, buf)
			c.mu.Lock()
			defer c.mu.Unlock()
			switch {
			case is == arrived:
				s.count.Copied++
				s.count.Bytes += uint64(j.size)
			case is == sourceGone:
				c.report.Gone++
			}
			if s.packs && is == sourceGone {
				c.gone[ids[j.key]] = true
			} else if s.packs && is == notTransferred {
				c.failed[ids[j.key]] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// manifests copies the manifests that the source had at the beginning and still has:
// the manifests of which the packs were in the source until the packs had been read.
func (c *copier) manifests(ctx context.Context) error {
	if err := c.noCollector(ctx); err != nil {
		return err
	}
	now, err := c.src.Backups(ctx, c.o.Instance)
	if err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	still := backupSet(now)
	c.kept = map[string]bool{}
	var missing []BackupRef
	there := map[string]int64{}
	for _, ref := range c.to.backups {
		there[backupName(ref)] = ref.Size
	}
	for _, ref := range c.from.backups {
		name := backupName(ref)
		if !still[name] {
			continue
		}
		c.kept[name] = true
		size, has := there[name]
		switch {
		case !has:
			missing = append(missing, ref)
		case size != ref.Size:
			if err := c.file(c.src.manifestKey(ref.Instance, ref.ID), errDiffers); err != nil {
				return err
			}
		}
	}
	ready, packs, err := c.ready(ctx, missing)
	if err != nil || len(ready) == 0 {
		return err
	}
	if err := c.prolong(ctx, packs); err != nil {
		return err
	}
	// The destination is looked at again: from here on every pack of these manifests is there.
	if lost, err := c.confirm(ctx); err != nil || lost > 0 {
		return err // confirm of this round finds the same, and the next round puts the packs again
	}
	for _, group := range newestFirst(ready) {
		if err := c.manifestGroup(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) manifestGroup(ctx context.Context, group []BackupRef) error {
	var jobs []copyJob
	refs := map[string]BackupRef{}
	for _, ref := range group {
		j := c.manifestJob(ref)
		jobs = append(jobs, j)
		refs[j.key] = ref
	}
	return c.each(ctx, jobs, 1, func(ctx context.Context, j copyJob, buf *[]byte) error {
		is, err := c.transfer(ctx, j, buf)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case is == arrived:
			c.report.Backups.Copied++
			c.report.Backups.Bytes += uint64(j.size)
			c.to.backups = append(c.to.backups, refs[j.key])
		case is == sourceGone:
			c.report.Gone++
			delete(c.kept, backupName(refs[j.key]))
		case err == nil:
			c.leftOut[backupName(refs[j.key])] = true
		}
		return err
	})
}

// ready returns the manifests whose packs are all in the
// destination, and the packs. Without the key nobody can tell which
// packs a manifest names, so one pack that failed keeps all back.
func (c *copier) ready(ctx context.Context, missing []BackupRef) (ready []BackupRef, packs []PackRef, err error) {
	if c.o.Vault == nil {
		if len(c.failed) == 0 && !c.movedFailed {
			return missing, c.from.packs, nil
		}
		for _, ref := range missing {
			c.leftOut[backupName(ref)] = true
		}
		return nil, nil, nil
	}
	for _, ref := range missing {
		key := c.src.manifestKey(ref.Instance, ref.ID)
		m, err := c.src.Manifest(ctx, ref)
		switch {
		case errors.Is(err, ErrNoBackup):
			c.report.Gone++
			delete(c.kept, backupName(ref))
			continue
		case err != nil && !ofObject(err):
			return nil, nil, fmt.Errorf("copy: source: %w", err)
		case err == nil:
			err = c.lacks(ctx, m)
		}
		if err != nil {
			c.leftOut[backupName(ref)] = true
			if err := c.file(key, err); err != nil {
				return nil, nil, err
			}
			continue
		}
		ready = append(ready, ref)
		for _, p := range m.Packs {
			if packs, err = c.movedTo(ctx, packs, p, 0); err != nil {
				return nil, nil, err
			}
		}
	}
	return ready, sortedRefs(packs), nil
}

// lacks tells which pack of a manifest the destination does not get.
func (c *copier) lacks(ctx context.Context, m *Manifest) error {
	for _, p := range m.Packs {
		if err := c.lacksPack(ctx, p, 0); err != nil {
			return err
		}
	}
	return nil
}

// prolong makes the locks of packs of the destination
// as long as the locks of manifests that are put now.
func (c *copier) prolong(ctx context.Context, packs []PackRef) error {
	if c.dst.st.Capabilities().Retain == 0 {
		return nil
	}
	if err := c.prolongMoved(ctx); err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	looks := c.dst.NewPackLooks()
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(looksInFlight)
	for _, p := range packs {
		if c.gone[p.ID] || c.failed[p.ID] {
			continue
		}
		g.Go(func() error {
			s, err := looks.stat(gctx, p.ID)
			if err == nil && s.fit && s.reason != "" {
				err = fmt.Errorf("object %s %s: a backup would be locked longer than its packs", c.dst.packKey(p.ID), s.reason)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	return nil
}

// confirm looks whether no collector is at work in the destination, and then whether the
// destination has the packs that were copied or found there. It returns how many packs are missing.
//
// The order matters: a condemnation that ended before the look has deleted its packs before the
// list, and a condemnation that comes after the look finds the manifests that were put before.
func (c *copier) confirm(ctx context.Context) (lost int, err error) {
	if err := c.noCollector(ctx); err != nil {
		return 0, err
	}
	c.to.packs, err = c.dst.packRefs(ctx)
	if err == nil && c.o.Instance == "" {
		c.to.index, err = c.dst.segmentRefs(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("copy: destination: %w", err)
	}
	d := comparePackRefs(c.from.packs, c.to.packs)
	for _, p := range d.missing {
		if !c.gone[p.ID] && !c.failed[p.ID] {
			lost++
		}
	}
	for _, p := range d.other {
		if c.failed[p.ID] {
			continue
		}
		c.failed[p.ID] = true
		if err := c.file(c.dst.packKey(p.ID), errDiffers); err != nil {
			return lost, err
		}
	}
	return lost, nil
}

// confirmBackups lists the backups of the destination,
// and returns how many of the copied ones are missing.
func (c *copier) confirmBackups(ctx context.Context) (lost int, err error) {
	if c.to.backups, err = c.dst.Backups(ctx, c.o.Instance); err != nil {
		return 0, fmt.Errorf("copy: destination: %w", err)
	}
	there := backupSet(c.to.backups)
	for name := range c.kept {
		if !there[name] && !c.leftOut[name] {
			lost++
		}
	}
	return lost, nil
}

// headers puts the source's header into the destination, when all else is there, and then removes
// older headers that the source has no more: they name recipients that the source has removed.
func (c *copier) headers(ctx context.Context) error {
	if c.o.Vault == nil && len(c.leftOut) > 0 && len(c.to.headers) == 0 {
		return nil // a vault without backups would say that there are none
	}
	for try := 1; ; try++ {
		refs, err := headersOf(ctx, c.src.st, c.o.ID)
		if err != nil {
			return fmt.Errorf("copy: source: %w", err)
		}
		if len(refs) == 0 {
			return fmt.Errorf("%w any more: the header of %s in %s is gone", ErrNoVault, c.o.ID, c.src.st)
		}
		newest := refs[len(refs)-1]
		err = c.header(ctx, newest)
		if errors.Is(err, obs.ErrNotFound) && try < copyRounds {
			continue // a rekey replaced the header
		}
		if err != nil {
			return err
		}
		return c.oldHeaders(ctx, newest, refs)
	}
}

// header puts one header and its signpost. ErrNotFound
// where the source does not have the header any more.
func (c *copier) header(ctx context.Context, ref headerRef) error {
	if ref.size > maxHeader {
		return &CorruptError{Object: ref.key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", ref.size, maxHeader)}
	}
	var buf []byte
	doc, err := readWhole(ctx, c.src.st, ref.key, ref.size, &buf)
	if err == nil && c.o.Vault != nil {
		err = c.src.holding(ref.key, doc).readOwnHeader(ctx, ref)
	}
	if err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	is, err := compare(ctx, c.dst.st, ref.key, doc)
	switch {
	case is == sameBytes:
	case is == missing:
		if err := c.dst.st.Put(ctx, signpostKey(c.o.ID), []byte(signpost)); err != nil {
			return fmt.Errorf("copy: destination: %w", err)
		}
		if err := putHeader(ctx, c.dst.st, ref.key, bytes.Clone(doc), c.dst.st.Put); err != nil {
			return fmt.Errorf("copy: destination: %w", err)
		}
		if is, err := compare(ctx, c.dst.st, ref.key, doc); is != sameBytes {
			return fmt.Errorf("copy: destination: %w", err)
		}
		c.report.Headers.Copied++
		c.report.Headers.Bytes += uint64(len(doc))
		return nil
	default:
		return fmt.Errorf("copy: destination: %w", err)
	}
	if _, err := c.dst.st.Stat(ctx, signpostKey(c.o.ID)); errors.Is(err, obs.ErrNotFound) {
		return c.dst.st.Put(ctx, signpostKey(c.o.ID), []byte(signpost))
	}
	return nil
}

// oldHeaders removes the headers of the destination that a rekey at the source replaced.
func (c *copier) oldHeaders(ctx context.Context, newest headerRef, source []headerRef) error {
	now, err := headersOf(ctx, c.dst.st, c.o.ID)
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	for _, ref := range now {
		if slices.ContainsFunc(source, func(s headerRef) bool { return s.key == ref.key }) {
			continue
		}
		if ref.generation > newest.generation {
			c.warn(fmt.Errorf("the destination has a newer header than the source: %s; the recipients of the copy differ from those of the source", ref.key))
			continue
		}
		if err := c.dst.st.Delete(ctx, ref.key); err != nil {
			c.warn(fmt.Errorf("an old header stays in the destination, and the recipients that it names can open the copy: %w", err))
			continue
		}
		c.report.Headers.Removed++
	}
	return nil
}
