package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"holdfast/agent/model"
)

// peekTimeout is how long Peek waits for a process that has the journal open: an agent that runs
// keeps it open.
const peekTimeout = 100 * time.Millisecond

// Peek returns the unfinished jobs of a journal without changing the file. The error is ErrLocked
// while an agent has it open; a file that is not there is fs.ErrNotExist.
func Peek(path string) (jobs []*model.Job, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// As in openFile.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			jobs, err = nil, fmt.Errorf("read journal %s: it %w: %v", path, errDamaged, p)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: peekTimeout, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("read journal %s: %w", path, ErrLocked)
	} else if err != nil {
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		if err := checkVersion(tx, path); err != nil {
			return err
		}
		active := tx.Bucket(bucketActive)
		if active == nil || tx.Bucket(bucketJobs) == nil {
			return nil
		}
		return active.ForEach(func(instance, id []byte) error {
			job, err := getJob(tx, string(id))
			if err != nil { // a start sets the record aside, and takes up the others
				job = &model.Job{ID: string(id), Instance: string(instance), State: model.Unknown, Cause: err.Error()}
			}
			jobs = append(jobs, job)
			return nil
		})
	})
	sortJobs(jobs)
	return jobs, err
}
