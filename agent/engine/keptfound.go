package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
	"holdfast/internal/origin"
	"holdfast/internal/restore"
)

// The notes on trees that restores take out of the places of volumes, for job.Keeper.

// Note implements job.Keeper.
func (r restores) Note(p model.Place, path string, n model.KeptNote) error {
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode the note on kept content: %w", err)
	}
	file, err := act(context.Background(), r.patience, p.Target, "noting whose content it is", lookTime, 0, func(context.Context) (string, error) {
		if err := errors.Join(r.standing.Allowed(), fits(p)); err != nil {
			return "", err
		}
		at, err := restore.Identify(path)
		if err != nil || at == "" || p.Old != "" && at != p.Old {
			return "", err
		}
		return putNote(n, path, data)
	})
	if file != "" {
		r.log.Info("no note can be kept on the content that a restore replaces, so a file beside it says whose it is", keyInstance, n.Instance, keyJob, n.Job,
			"volume", n.Volume, "file", file)
	}
	return err
}

// NoteOn implements job.Keeper.
func (r restores) NoteOn(p model.Place, path string) (*model.KeptNote, error) {
	return act(context.Background(), r.patience, p.Target, "looking whose content it is", lookTime, 0, func(context.Context) (*model.KeptNote, error) {
		if err := fits(p); err != nil {
			return nil, err
		}
		n, err := noteOn(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // nothing is there
		}
		return n, err
	})
}

// noteOn reads the note on the tree at a path; nil where there is none that counts.
func noteOn(path string) (*model.KeptNote, error) {
	data, err := readNoteFile(path)
	if err != nil {
		return nil, err
	}
	if data == nil {
		data, err = origin.ReadNote(path)
	}
	switch {
	case errors.Is(err, origin.ErrNoMark), errors.Is(err, origin.ErrNotKept), errors.Is(err, origin.ErrDamaged):
		return nil, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, nil // a link or a socket, which bears no note
	case err != nil:
		return nil, err
	}
	var n model.KeptNote
	if err := json.Unmarshal(data, &n); err != nil || n.Instance == "" || n.Tenant == "" || n.Job == "" || n.Volume == "" {
		return nil, nil //nolint:nilerror // a note that can't be read tells nothing
	}
	return &n, nil
}

// FindKept implements job.Keeper.
func (r restores) FindKept(ctx context.Context) (all []model.FoundKept, err error) {
	var folders []string
	for _, in := range r.instances.All() {
		for _, v := range in.cfg.Volumes {
			folders = append(folders, filepath.Dir(v.Path))
		}
	}
	slices.Sort(folders)
	var errs []error
	for _, folder := range slices.Compact(folders) {
		found, err := act(ctx, r.patience, folder, "looking for kept content", lookTime, 0, func(context.Context) ([]model.FoundKept, error) { return keptIn(folder) })
		all, errs = append(all, found...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// keptIn finds the trees in a folder that FindKept lists. An error of one name hides no other name.
func keptIn(folder string) (all []model.FoundKept, err error) {
	f, err := os.Open(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // its disk may be mounted later
	} else if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		aside, stage := restore.Named(name)
		if !aside && !stage {
			continue
		}
		path := filepath.Join(folder, name)
		n, err := noteOn(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		found := model.FoundKept{Path: path}
		if n != nil && filepath.Dir(n.Target) == folder && namedFor(name, n.Volume) {
			if found, err = foundWith(path, n); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
				continue
			}
		}
		if found.Note != nil || aside {
			all = append(all, found)
		}
	}
	return all, errors.Join(errs...)
}

// jobOf is a job's id, as it is in the names of trees.
var jobOf = regexp.MustCompile(`-[0-9a-f]{20}$`)

// namedFor tells whether an agent gives that name to a tree of the volume. An operator who has
// renamed a tree has taken it over.
func namedFor(name, volume string) bool {
	before, ok := strings.CutSuffix(name, "-"+volume)
	return ok && jobOf.MatchString(before)
}

// foundWith describes a tree with its note.
func foundWith(path string, n *model.KeptNote) (model.FoundKept, error) {
	old, err := restore.Identify(path)
	if err != nil || old == "" {
		return model.FoundKept{Path: path}, err
	}
	holder, err := holderOf(path)
	if err != nil {
		return model.FoundKept{}, err
	}
	p := model.Place{
		Volume: n.Volume, Target: n.Target, Holder: holder, Old: old,
		Stage: restore.StageOf(n.Target, n.Job, n.Volume), Aside: restore.AsideOf(n.Target, n.Job, n.Volume),
	}
	if path != p.Aside {
		p.Stage = path
	}
	return model.FoundKept{Path: path, Place: p, Note: n}, nil
}
