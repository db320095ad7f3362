package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/obs"
)

const (
	eraseBatch    = 1000
	eraseInFlight = 8
	// headerTries is how often headers are removed that a rekey puts meanwhile.
	headerTries = 3
)

// removeHeaders removes all headers and the signpost, and makes sure that they are gone.
func (e *eraser) removeHeaders(ctx context.Context) error {
	e.report.Kept, e.report.KeptUntil, e.report.KeptReason = ErasedCount{}, time.Time{}, ""
	clear(e.locked)
	clear(e.versions)
	e.report.HeadersGone = false
	for range headerTries {
		if err := e.removeBelow(ctx, e.o.ID+"/vault"); err != nil {
			return err
		}
		if err := e.removeBelow(ctx, signpostKey(e.o.ID)); err != nil {
			return err
		}
		refs, err := headersOf(obs.Afresh(ctx), e.st, e.o.ID)
		if err != nil {
			return fmt.Errorf("erase: %w", err)
		}
		_, err = e.st.Stat(obs.Afresh(ctx), firstHeaderKey(e.o.ID))
		switch {
		case err != nil && !errors.Is(err, obs.ErrNotFound):
			return fmt.Errorf("erase: %w", err)
		case err != nil && len(refs) == 0:
			e.report.HeadersGone = e.report.Versions != VersionsUnknown
			return nil
		case e.report.Kept.Objects > 0:
			return fmt.Errorf("erase vault %s: the store does not let its header go, so nothing else was removed: %s", e.o.ID, e.report.KeptReason)
		}
	}
	return fmt.Errorf("erase vault %s: its header comes back while it is removed: somebody changes the vault's recipients, or the store lists removed objects; erase again", e.o.ID)
}

// removeFolder removes all objects below a folder of the vault, but the records of erasing.
func (e *eraser) removeFolder(ctx context.Context, folder string) error {
	return e.removeBelow(ctx, e.o.ID+"/"+folder)
}

// removeBelow removes all objects whose key begins with prefix: first every
// version, where the bucket keeps versions, and then the objects that are still listed.
func (e *eraser) removeBelow(ctx context.Context, prefix string) error {
	if err := e.removeVersions(ctx, prefix); err != nil {
		return err
	}
	var batch []obs.Info
	for in, err := range e.st.List(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("erase: %w", err)
		}
		if e.spared(in.Key) {
			continue
		}
		if batch = append(batch, in); len(batch) == eraseBatch {
			if err := e.removeBatch(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return e.removeBatch(ctx, batch)
}

// spared tells the keys that must not be removed now: objects that
// the store keeps, and the records of erasing, which go last.
func (e *eraser) spared(key string) bool {
	return e.locked[key] || strings.HasPrefix(key, e.o.ID+"/erasing/")
}

// removeBatch deletes objects together, and one by one where the store refuses some of them.
func (e *eraser) removeBatch(ctx context.Context, batch []obs.Info) error {
	if len(batch) == 0 {
		return nil
	}
	keys := make([]string, len(batch))
	for i, in := range batch {
		keys[i] = in.Key
	}
	err := e.st.Delete(ctx, keys...)
	if err == nil {
		for _, in := range batch {
			e.removed(e.folderOf(in.Key), in.Size)
		}
		e.tell()
		return nil
	}
	if e.fatal(ctx, err) {
		return fmt.Errorf("erase: %w", err)
	}
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(eraseInFlight)
	for _, in := range batch {
		g.Go(func() error {
			err := e.st.Delete(gctx, in.Key)
			var until time.Time
			if err != nil {
				if e.fatal(gctx, err) {
					return fmt.Errorf("erase: %w", err)
				}
				if now, serr := e.st.Stat(gctx, in.Key); serr == nil {
					until = now.RetainUntil
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				e.keep(in.Key, in.Size, until, err)
			} else {
				e.removed(e.folderOf(in.Key), in.Size)
			}
			return nil
		})
	}
	err = g.Wait()
	e.tell()
	return err
}

// fatal tells the errors after which the whole erasing
// is to be tried again: they are not of one object.
func (e *eraser) fatal(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, obs.ErrUnavailable) || errors.Is(err, obs.ErrNoBucket) || errors.Is(err, obs.ErrReadOnly) ||
		errors.Is(err, obs.ErrNoKeys) || errors.Is(err, obs.ErrWrongKeys) || errors.Is(err, obs.ErrExpiredKeys) || errors.Is(err, obs.ErrClockSkew)
}

// removeVersions removes all versions of the objects whose key begins with prefix.
func (e *eraser) removeVersions(ctx context.Context, prefix string) error {
	if e.report.Versions != VersionsRemoved {
		return nil
	}
	var mu sync.Mutex
	g, gctx := contain.WithContext(ctx)
	g.SetLimit(eraseInFlight)
	last := ""
	for row, err := range obs.Versions(ctx, e.st, prefix) {
		if err != nil {
			werr := g.Wait()
			if werr != nil || e.fatal(ctx, err) {
				return errors.Join(fmt.Errorf("erase: %w", err), werr)
			}
			e.unknownVersions(fmt.Errorf("the store does not list older versions: %w", err))
			return nil
		}
		if strings.HasPrefix(row.Key, e.o.ID+"/erasing/") && !strings.HasPrefix(prefix, e.o.ID+"/erasing/") {
			continue
		}
		folder := e.folderOf(row.Key)
		if row.Key == last {
			folder = "versions" // the newest version of a key comes first
		}
		last = row.Key
		mu.Lock()
		kept := e.versions[row]
		mu.Unlock()
		if kept {
			continue
		}
		g.Go(func() error {
			until, err := obs.DeleteVersion(gctx, e.st, row)
			if err != nil && e.fatal(gctx, err) {
				return fmt.Errorf("erase: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && !row.Marker:
				e.removed(folder, row.Size)
			case err != nil && !until.IsZero():
				e.versions[row] = true
				e.keep(row.Key, row.Size, until, err)
			case err != nil && !row.Marker:
				// These credentials may not remove versions; the listed objects go all the same.
				e.unknownVersions(fmt.Errorf("an older version can't be removed: %w", err))
			}
			return nil
		})
	}
	err := g.Wait()
	e.tell()
	return err
}

// folderOf is the kind of an object, as the report counts it.
func (e *eraser) folderOf(key string) string {
	rest, ok := strings.CutPrefix(key, e.o.ID+"/")
	if !ok {
		return "signpost"
	}
	folder, _, in := strings.Cut(rest, "/")
	if !in {
		return "header"
	}
	return folder
}

func (e *eraser) removed(folder string, size int64) {
	n := e.report.Removed[folder]
	n.add(size)
	e.report.Removed[folder] = n
	e.done.add(size)
}

// keep notes an object, or a version of one, that the store does not let go.
func (e *eraser) keep(key string, size int64, until time.Time, err error) {
	e.locked[key] = true
	e.report.Kept.add(size)
	if e.report.KeptReason == "" {
		e.report.KeptReason = err.Error()
	}
	if until.After(e.report.KeptUntil) {
		e.report.KeptUntil = until.UTC()
	}
}

func (e *eraser) tell() {
	if e.o.Progress != nil {
		e.o.Progress(e.done, e.report.Found)
	}
}

// settled lists the remaining objects, waits, and lists again. It returns a key
// that is to be removed yet; "" where only objects remain that the store keeps.
func (e *eraser) settled(ctx context.Context) (string, error) {
	e.report.EmptyLists = nil
	for again := false; ; again = true {
		left, err := e.left(ctx)
		if left != "" || err != nil {
			return left, err
		}
		e.report.EmptyLists = append(e.report.EmptyLists, time.Now().UTC())
		if again || e.o.Settle <= 0 {
			break
		}
		wait := time.NewTimer(e.o.Settle)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return "", context.Cause(ctx)
		}
	}
	// A version of a header that the store keeps opens the
	// vault, for everybody with the right to read versions.
	for key := range e.locked {
		if e.folderOf(key) == "header" {
			e.report.HeadersGone = false
		}
	}
	return "", nil
}

func (e *eraser) left(ctx context.Context) (string, error) {
	for _, prefix := range []string{e.o.ID + "/", signpostKey(e.o.ID)} {
		for in, err := range e.st.List(ctx, prefix) {
			if err != nil {
				return "", fmt.Errorf("erase: %w", err)
			}
			if !e.spared(in.Key) {
				return in.Key, nil
			}
		}
		if e.report.Versions != VersionsRemoved {
			continue
		}
		for row, err := range obs.Versions(ctx, e.st, prefix) {
			if err != nil {
				return "", fmt.Errorf("erase: %w", err)
			}
			if !e.spared(row.Key) {
				return row.Key, nil
			}
		}
	}
	return "", nil
}
