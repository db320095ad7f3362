package vault

import (
	"context"
	"errors"
	"fmt"
)

// Reads names the backups that a reader reads: one backup, all backups of an
// instance with id "", or all backups of the vault with "" for both.
func Reads(instance, id string) string {
	switch {
	case instance == "":
		return ""
	case id == "":
		return instance + "/"
	}
	return instance + "/" + id
}

// BeginReading stores the session of a reader. While it is in the store, no collector
// deletes a pack of a backup whose manifest the reader reads after this returned, also
// when that manifest is deleted meanwhile, and no prune deletes a forgotten backup that
// reads names. reads is a result of Reads. BeginReading takes two requests. End ends it;
// a crash leaves the object, which the next session of the host removes.
func (v *Vault) BeginReading(ctx context.Context, o SessionOptions, reads string) (*Session, error) {
	o.Instance = reads
	me := observe(o)
	s, err := v.putSession(ctx, kindReader, o, me.process)
	if err != nil {
		return nil, err
	}
	if err := v.removeEndedSeldom(ctx, me); err != nil && o.Warn != nil {
		o.Warn(err)
	}
	return s, nil
}

// ReadUnder calls read under the session of a reader. Where none can be stored, since the
// credentials can only read or the disk of the store is full, ReadUnder warns and reads all the
// same: a restore matters more. The error is the error of read; where an object was damaged or
// missing and the session is gone, the error says so.
func (v *Vault) ReadUnder(ctx context.Context, o SessionOptions, reads string, read func(context.Context) error) error {
	warn := func(err error) {
		if o.Warn != nil {
			o.Warn(err)
		}
	}
	s, err := v.BeginReading(ctx, o, reads)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		warn(fmt.Errorf("this reader has no session in the vault, so a prune at the same time may delete packs that it reads: %w", err))
		return read(ctx)
	}
	err = read(ctx)
	if errors.Is(err, ErrCorrupt) && ctx.Err() == nil {
		if there, serr := v.sessionThere(ctx, s.id); serr == nil && !there {
			err = fmt.Errorf("%w (the session of this reader was removed from the vault, so a prune may have deleted packs that it reads: read again)", err)
		}
	}
	if serr := s.End(ctx); serr != nil {
		warn(serr)
	}
	return err
}
