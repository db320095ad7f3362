package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault"
)

// lossLine is a loss of a backup as a JSON line. Path is as in
// warningLine; "" is the volume as a whole.
type lossLine struct {
	Type      string `json:"type"` // "loss"
	Volume    string `json:"volume"`
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"`
	What      string `json:"what"`
	Accepted  bool   `json:"accepted"` // the instance's configuration accepts losses at this path
}

// tellLosses lists losses of a backup: with --json as lines on
// stdout, else on stderr. count is how many there are at most.
func (a *app) tellLosses(list []vault.Loss, count uint64) error {
	for _, l := range list {
		if a.json {
			line := lossLine{Type: "loss", Volume: l.Volume, Path: string(l.Path), What: l.What, Accepted: l.Accepted}
			if !utf8.Valid(l.Path) {
				line.PathBytes = l.Path
			}
			if err := a.line(line); err != nil {
				return err
			}
			continue
		}
		place := string(l.Path)
		if place == "" {
			place = "."
		}
		accepted := ""
		if l.Accepted {
			accepted = " (accepted)"
		}
		a.beside("not in the backup: %s, %s: %s%s", oneLine(l.Volume), name(place), oneLine(l.What), accepted)
	}
	if more := count - uint64(len(list)); more > 0 && !a.json {
		a.beside("not in the backup: %d more, of which it does not say where they are", more)
	}
	return nil
}

// incompleteNote is the note of a command about an incomplete backup that it reads.
func incompleteNote(m *vault.Manifest) string {
	return fmt.Sprintf("backup %s is incomplete: it lacks content at %s", m.ID, count(m.Lost, "place", "places"))
}

// excludesNote names the entries that a volume leaves out on purpose; "" when there are none.
func excludesNote(v *vault.Volume) string {
	var parts []string
	for _, p := range v.Excludes {
		parts = append(parts, name(p))
	}
	if v.ExcludeCaches {
		parts = append(parts, "the content of folders with a CACHEDIR.TAG")
	}
	if len(parts) == 0 {
		return ""
	}
	const shown = 10
	if more := len(parts) - shown; more > 0 {
		parts = append(parts[:shown], fmt.Sprintf("%d more patterns", more))
	}
	return fmt.Sprintf("volume %s was backed up without %s", v.Name, strings.Join(parts, ", "))
}

// maxCounted is how many incomplete backups list opens to count
// their losses, a request each; it leaves out the losses of others.
const maxCounted = 100

// lostOf returns the numbers of losses of the last incomplete backups of a list,
// by id. A manifest that does not open has none: verify reports its fault.
func (v *vaultAt) lostOf(ctx context.Context, refs []vault.BackupRef) (map[string]uint64, error) {
	var open []vault.BackupRef
	for i := len(refs) - 1; i >= 0 && len(open) < maxCounted; i-- {
		if refs[i].Incomplete {
			open = append(open, refs[i])
		}
	}
	counts := make([]uint64, len(open))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, ref := range open {
		g.Go(func() error {
			m, err := v.Manifest(gctx, ref)
			if err == nil {
				counts[i] = m.Lost
			} else if !errors.Is(err, vault.ErrCorrupt) && !errors.Is(err, vault.ErrNewer) && !errors.Is(err, vault.ErrNoBackup) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	lost := make(map[string]uint64, len(open))
	for i, ref := range open {
		if counts[i] > 0 {
			lost[ref.ID] = counts[i]
		}
	}
	return lost, nil
}

// newerIncomplete returns the id of an incomplete backup
// that is newer than the chosen one; "" when there is none.
func (v *vaultAt) newerIncomplete(ctx context.Context, chosen vault.BackupRef) (string, error) {
	refs, err := v.Backups(ctx, chosen.Instance)
	if err != nil {
		return "", err
	}
	if last := refs[len(refs)-1]; last.Seq > chosen.Seq && last.Incomplete {
		return last.ID, nil
	}
	return "", nil
}
