package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
)

// A vault has small objects beside the backups that a copy needs too: decisions, without which
// a restore from the copy finds a fork that was decided long ago, and holds, without which a prune
// of the copy deletes backups that somebody needs when the source is lost.

// smallKind is a kind of small objects that a copy brings to the destination.
type smallKind struct {
	what, magic string
	limit       int64
	folder      func(*Vault) string
	isName      func(string) bool
	empty       func() any
}

var decisionKind = smallKind{
	"decision", decisionMagic, maxDecision,
	(*Vault).decisionsPrefix, decisionPattern.MatchString, func() any { return new(decisionBody) },
}

var holdKind = smallKind{
	"hold", holdMagic, maxMark,
	(*Vault).holdsPrefix, condemnedPattern.MatchString, func() any { return new(Hold) },
}

var movedKind = smallKind{
	"moved", movedMagic, maxMoved,
	(*Vault).movedPrefix, isMovedName, func() any { return new(movedBody) },
}

// smallRef is a listed small object.
type smallRef struct {
	name string // below the folder of its kind
	size int64
}

// listSmall lists the small objects of a kind whose names begin with prefix, by their names.
func (v *Vault) listSmall(ctx context.Context, k *smallKind, prefix string) (refs []smallRef, err error) {
	folder := k.folder(v)
	for info, err := range v.st.List(ctx, folder+prefix) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", folder, err)
		}
		if name := strings.TrimPrefix(info.Key, folder); k.isName(name) {
			refs = append(refs, smallRef{name, info.Size})
		}
	}
	slices.SortFunc(refs, func(a, b smallRef) int { return cmp.Compare(a.name, b.name) })
	return refs, nil
}

// findSmall returns the entry of that name in a list.
func findSmall(refs []smallRef, name string) (smallRef, bool) {
	i, found := slices.BinarySearchFunc(refs, name, func(r smallRef, name string) int { return cmp.Compare(r.name, name) })
	if !found {
		return smallRef{}, false
	}
	return refs[i], true
}

// smallJob copies a small object. With the key the object is opened.
func (c *copier) smallJob(k *smallKind, ref smallRef) copyJob {
	key := k.folder(c.src) + ref.name
	return copyJob{key, ref.size, func(_ context.Context, body []byte) error {
		switch {
		case int64(len(body)) > k.limit:
			return &CorruptError{Object: key, Reason: fmt.Sprintf("has %d bytes, more than the %d of its kind", len(body), k.limit)}
		case strings.HasPrefix(string(body[:min(len(body), len(k.magic))]), k.magic):
		case strings.HasPrefix(string(body[:min(len(body), 6)]), k.magic[:6]):
			return fmt.Errorf("object %s: %w", key, ErrNewer)
		default:
			return &CorruptError{Object: key, Reason: "is no " + k.what}
		}
		if c.o.Vault == nil {
			return nil
		}
		return c.src.openSmall(k.what, k.magic, k.folder(c.src), ref.name, body, k.empty())
	}}
}

// smallSide is the knowledge of a copy about one kind of small objects.
type smallSide struct {
	kind     *smallKind
	from, to []smallRef
	count    *CopyCount
}

func (c *copier) smallSides() []smallSide {
	return []smallSide{
		{&decisionKind, c.from.decisions, c.to.decisions, &c.report.Decisions},
		{&holdKind, c.from.holds, c.to.holds, &c.report.Holds},
		{&movedKind, c.from.moved, c.to.moved, &c.report.Moved},
	}
}

// listNotes lists the decisions and the holds of one side. The name of a hold tells no instance,
// so the copy of one instance brings all holds. Relocations are listed with the packs.
func (v *Vault) listNotes(ctx context.Context, l *copyLists, instance string) (err error) {
	if instance != "" {
		instance += "/"
	}
	if l.decisions, err = v.listSmall(ctx, &decisionKind, instance); err == nil {
		l.holds, err = v.listSmall(ctx, &holdKind, "")
	}
	return err
}

// notes copies the decisions, the holds and the relocations that the destination lacks. They come
// before the manifests, so that the destination never has a backup without its hold.
func (c *copier) notes(ctx context.Context) error {
	for _, s := range c.smallSides() {
		var jobs []copyJob
		for _, ref := range s.from {
			there, has := findSmall(s.to, ref.name)
			switch {
			case !has:
				jobs = append(jobs, c.smallJob(s.kind, ref))
			case there.size != ref.size:
				if err := c.file(s.kind.folder(c.src)+ref.name, errDiffers); err != nil {
					return err
				}
			}
		}
		err := c.each(ctx, jobs, 1, func(ctx context.Context, j copyJob, buf *[]byte) error {
			is, err := c.transfer(ctx, j, buf)
			c.mu.Lock()
			defer c.mu.Unlock()
			switch is {
			case arrived:
				s.count.Copied++
				s.count.Bytes += uint64(j.size)
			case sourceGone:
				c.report.Gone++
			default:
				c.movedFailed = c.movedFailed || s.kind == &movedKind
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	// Another round puts only objects that vanished meanwhile.
	err := c.dst.listNotes(ctx, &c.to, c.o.Instance)
	if err == nil {
		c.to.moved, err = c.dst.listSmall(ctx, &movedKind, "")
	}
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	return nil
}

// countNotes compares the lists for the report.
func (c *copier) countNotes() {
	for _, s := range c.smallSides() {
		s.count.Source = len(s.from)
		for _, ref := range s.from {
			if _, has := findSmall(s.to, ref.name); !has {
				s.count.Missing++
			}
		}
		s.count.Extra = len(s.to) - (len(s.from) - s.count.Missing)
	}
}

// noteJobs are the jobs that compare the decisions and the holds that both sides have.
func (c *copier) noteJobs() (jobs []copyJob) {
	for _, s := range c.smallSides() {
		for _, ref := range s.from {
			if there, has := findSmall(s.to, ref.name); has && there.size == ref.size {
				jobs = append(jobs, c.smallJob(s.kind, ref))
			}
		}
	}
	return jobs
}

// heldAtDestination returns which of the backups a hold of the destination keeps. The clock of
// the store has to agree before a hold counts as over.
func (c *copier) heldAtDestination(ctx context.Context, refs []BackupRef) (map[string]bool, error) {
	holds, err := c.dst.Holds(ctx)
	if err != nil {
		return nil, fmt.Errorf("copy: destination: nothing is removed, since a hold there does not tell its backup: %w", err)
	}
	about, held := backupSet(refs), map[string]bool{}
	over := false
	for _, h := range holds {
		switch {
		case !about[h.name()]:
		case h.Until.IsZero() || time.Now().Before(h.Until):
			held[h.name()] = true
		default:
			over = true
		}
	}
	if over {
		if err := c.dst.CheckClock(ctx, c.o.Session); err != nil {
			return nil, fmt.Errorf("copy: destination: a hold may be over: %w", err)
		}
	}
	return held, nil
}

// announced announces in the destination that backups go, makes sure that nobody is at work there,
// and deletes their manifests. A process that holds one of the backups finds the announcement, or
// its session or its hold is found here.
func (c *copier) announced(ctx context.Context, refs []BackupRef, manifests []string) (err error) {
	a, err := c.collects.announce(ctx, refs)
	defer func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, a.finish(within, err))
	}()
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	if err := c.aloneAtDestination(ctx); err != nil {
		return err
	}
	held, err := c.heldAtDestination(obs.Afresh(ctx), refs)
	if err != nil {
		return err
	}
	for name := range held {
		return fmt.Errorf("copy to %s: %w: somebody put a hold on backup %s meanwhile; copy again", c.dst.st, ErrInUse, name)
	}
	return a.deletes(ctx, manifests)
}
