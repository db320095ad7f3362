package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"holdfast/agent/model"
)

// Errors of a journal's file.
var (
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("journal is in use by another process")
	// ErrNewer says that a later version of the program wrote the journal.
	ErrNewer = errors.New("journal was written by a newer version")
	// ErrOlder says that an earlier version of the program wrote the journal.
	ErrOlder = errors.New("journal was written by an earlier version")
)

// Open opens the journal at path, or makes an empty one (mode
// 0600). A damaged journal is set aside, see Aside. The error is ErrLocked
// when another process has it, ErrNewer when a later version wrote it.
func Open(path string) (*Journal, error) {
	j, err := openFile(path)
	if !errors.Is(err, errDamaged) {
		return j, err
	}
	why := err
	aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("set the damaged journal aside: %w", err)
	}
	if j, err = openFile(path); err != nil {
		return nil, errors.Join(why, err)
	}
	j.aside = fmt.Sprintf("%v; it was set aside as %s", why, aside)
	return j, nil
}

// Unfinished returns the unfinished jobs of a journal that no process
// has open. A damaged journal is an error and stays as it is.
func Unfinished(path string) (jobs []*model.Job, err error) {
	j, err := openFile(path)
	if err != nil {
		return nil, err
	}
	jobs, err = j.Active()
	return jobs, errors.Join(err, j.Close())
}

// Aside names the damage of the journal that was found, and its new path; empty
// when there was no damage. The journal is a new one then: the old knowledge of
// commands is lost, and instances that Marks names as held are let go.
func (jr *Journal) Aside() string { return jr.aside }

// openFile opens the file and reads all of it: damage shows now, when nothing depends
// on it yet, and not in the middle of a job. A file whose pages are whole is no damaged
// file, whatever its records say: a record that can't be understood is set aside alone.
func openFile(path string) (j *Journal, err error) {
	// Pages that point out of the file fault, in memory that is mapped, and others panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bbolt.DB
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open journal %s: it %w: %v", path, errDamaged, p)
		}
		if err != nil && db != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w", path, ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), err != nil && short(path):
		return nil, fmt.Errorf("open journal %s: it %w: %w", path, errDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	if err := checkFile(path, db.Info().PageSize); err != nil {
		return nil, err
	}
	j = &Journal{db: db, path: path}
	j.clock.set("", processClock())
	if err := j.init(); err != nil {
		return nil, err
	}
	return j, nil
}

// checkFile checks the pages of the file, which is mapped and not
// read: a large one takes no memory.
func checkFile(path string, pageSize int) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	pages, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer func() { _ = unix.Munmap(pages) }()
	if err := checkPages(pages, pageSize); err != nil {
		return fmt.Errorf("open journal %s: it %w: %w", path, errDamaged, err)
	}
	return nil
}

// short tells whether the file ends before its second page does, as
// after a crash while it was made.
func short(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() < 2*int64(os.Getpagesize())
}

// sound has bbolt look at the pages of the file, the order of the
// keys included. setUnknownAside looks at the content of the records.
func (jr *Journal) sound(tx *bbolt.Tx) error {
	var first error
	for err := range tx.Check() {
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return fmt.Errorf("open journal %s: it %w: %w", jr.path, errDamaged, first)
	}
	return nil
}

func (jr *Journal) init() error {
	// The version is looked at before anything is written: a newer journal stays as it is.
	err := jr.db.View(func(tx *bbolt.Tx) error {
		if err := checkVersion(tx, jr.path); err != nil || tx.Bucket(bucketMeta) == nil {
			return err
		}
		return errors.Join(jr.readClock(tx), jr.sound(tx))
	})
	if err != nil {
		return err
	}
	return jr.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); errors.Is(err, bolterrors.ErrIncompatibleValue) {
				return fmt.Errorf("journal %s: it %w: %w", jr.path, errDamaged, err)
			} else if err != nil {
				return fmt.Errorf("journal %s: %w", jr.path, err)
			}
		}
		if err := jr.setUnknownAside(tx); err != nil {
			return err
		}
		if err := indexOutbox(tx); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, []byte(strconv.Itoa(journalVersion)))
	})
}
