package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/agent/engine"
	"holdfast/agent/journal"
	"holdfast/internal/durable"
	"holdfast/internal/hostid"
)

// Adopted is what Adopt did.
type Adopted struct {
	Before, Now string   // identities of the state folder; Before is "" where it was not known
	Instances   []string // with an unfinished job, or held, by the folder's files
	Reports     int      // that were not delivered
	Aside       []string // paths of the files that were set aside
}

// Adopt decides for a person whose state folder that is which no agent may work with, and
// binds the folder to this machine. With renew the folder is of another host from now on, which
// never held an instance: journal and notes are set aside, with all jobs and reports. Without,
// this machine goes on as the host that the folder is of, and every other copy stands still at
// its next look at the store. Nothing is done to any instance or vault. It is for a folder that
// no agent has open: else the error wraps journal.ErrLocked. It can be repeated, and
// after a crash either nothing was decided, or the next start of the agent ends it.
func Adopt(stateDir string, renew bool) (Adopted, error) {
	var done Adopted
	path := filepath.Join(stateDir, JournalFile)
	c := hostid.Claim{New: renew, Between: func(before string) (err error) {
		done.Aside, err = putAside(stateDir, before)
		return err
	}}
	notes, err := Held(stateDir)
	if err != nil {
		return done, err
	}
	done.Instances = notes
	if _, err := os.Lstat(stateDir); err != nil {
		return done, fmt.Errorf("state_dir: %w", err)
	}
	var jr *journal.Journal
	if _, err = os.Lstat(path); err == nil {
		jr, err = journal.Inspect(path)
	}
	switch {
	case errors.Is(err, journal.ErrLocked):
		return done, fmt.Errorf("an agent works with %s; stop it (`holdfastd stop`) and try again: %w", stateDir, err)
	case err != nil && !renew && !errors.Is(err, fs.ErrNotExist):
		return done, fmt.Errorf("to go on as this host takes its journal; `holdfastd adopt --new` goes on without: %w", err)
	case err == nil:
		defer func() { _ = jr.Close() }() // nothing was written
		if c.Owner, err = jr.Owner(); err != nil {
			return done, err
		}
		active, aerr := jr.Active()
		n, nerr := jr.PendingReports()
		if err := errors.Join(aerr, nerr); err != nil {
			return done, err
		}
		done.Reports = n
		for _, j := range active {
			done.Instances = append(done.Instances, j.Instance)
		}
	}
	slices.Sort(done.Instances)
	done.Instances = slices.Compact(done.Instances)
	if !renew {
		// First, since the folder counts as this machine's own with the next step.
		if err := engine.TakeLooks(filepath.Join(stateDir, engine.LooksFile), c.Owner); err != nil {
			return done, fmt.Errorf("adopt the state folder: %w", err)
		}
	}
	done.Before, done.Now, err = hostid.Adopt(stateDir, c)
	return done, err
}

// setAside is hostid.Claim.Between for an adoption that a crash has cut off.
func setAside(stateDir string) func(string) error {
	return func(before string) error {
		_, err := putAside(stateDir, before)
		return err
	}
}

// putAside sets aside or removes what belongs to the identity before. It may be repeated.
func putAside(stateDir, before string) (aside []string, err error) {
	root, err := os.OpenRoot(stateDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range []string{JournalFile, marksFolder} {
		to := freeName(root, name+".copied-"+before)
		switch err := root.Rename(name, to); {
		case err == nil:
			aside = append(aside, filepath.Join(stateDir, to))
		case !errors.Is(err, fs.ErrNotExist):
			return aside, fmt.Errorf("set aside: %w", err)
		}
	}
	// A catalogue tells which files are unchanged since
	// the last backup of an instance, here or there.
	for _, name := range []string{engine.LooksFile, engine.CataloguesFolder, PrunesFile} {
		if err := root.RemoveAll(name); err != nil {
			return aside, fmt.Errorf("remove: %w", err)
		}
	}
	return aside, durable.SyncFolder(root, ".")
}

// freeName adds a number to a name that is taken.
func freeName(root *os.Root, name string) string {
	free := name
	for i := 2; ; i++ {
		if _, err := root.Lstat(free); err != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, i)
	}
}
