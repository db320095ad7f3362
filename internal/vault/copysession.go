package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A copy puts packs under the names that they have in the source, so a pack can come back into the
// destination after a collector of the destination has deleted it there. Such a collector may be
// paused with a delete of that very pack before it. So a copy puts nothing while the session of a
// collector stands in the destination; and a collector that begins later waits for the session of
// the copy (FORMAT.md, Copy).

// join puts the session of this copy into the destination, and then looks for collectors there.
func (c *copier) join(ctx context.Context) (err error) {
	o := c.o.Session
	o.Instance = c.o.Instance
	if o.Warn == nil {
		o.Warn = c.warn
	}
	me := observe(o)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.leave(ctx))
		}
	}()
	if c.writes, err = c.dst.putSession(ctx, kindWriter, o, me.process); err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	if c.o.DeleteExtra {
		if c.collects, err = c.dst.putSession(ctx, kindCollector, o, me.process); err != nil {
			return fmt.Errorf("copy: destination: %w", err)
		}
	}
	if err := c.dst.removeEnded(ctx, me); err != nil {
		c.warn(fmt.Errorf("copy: destination: %w", err))
	}
	return c.alone(ctx)
}

// leave ends the sessions of this copy.
func (c *copier) leave(ctx context.Context) (err error) {
	for _, s := range []*Session{c.collects, c.writes} {
		if s != nil {
			err = errors.Join(err, s.End(ctx))
		}
	}
	return err
}

// owns tells whether a session is of this copy.
func (c *copier) owns(id string) bool {
	return c.writes != nil && c.writes.id == id || c.collects != nil && c.collects.id == id
}

// alone is ErrCollected where the session of a collector stands in the destination, or a
// condemnation.
func (c *copier) alone(ctx context.Context) error {
	stand, _, err := c.dst.listSessions(ctx, "")
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	for _, info := range stand {
		if id := c.dst.sessionOf(info); strings.HasSuffix(id, pruneSuffix) && !c.owns(id) {
			return fmt.Errorf("copy to %s: %w: its session is %s", c.dst.st, ErrCollected, id)
		}
	}
	return c.noCollector(ctx)
}

// noCollector is ErrCollected where a condemnation stands in the destination: packs that were put
// again under their old names would go with it.
func (c *copier) noCollector(ctx context.Context) error {
	n, err := c.dst.standing(ctx, "condemned")
	if err != nil {
		return fmt.Errorf("copy: destination: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("copy to %s: %w: %d condemnations stand there", c.dst.st, ErrCollected, n)
	}
	return nil
}

// mine is ErrSessionGone where somebody has removed the session of this copy, or has marked the
// session as ended: then a collector may have missed the manifests that the copy has put.
func (c *copier) mine(ctx context.Context) error {
	there, err := c.dst.sessionThere(ctx, c.writes.id)
	switch {
	case err != nil:
		return fmt.Errorf("copy: destination: %w", err)
	case !there:
		return fmt.Errorf("copy to %s: %w: packs of the copy may be lost; copy again", c.dst.st, ErrSessionGone)
	}
	return nil
}
