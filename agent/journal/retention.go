package journal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// The journal forgets finished tasks by their age, and the oldest of them when
// their jobs or their bytes are too many. Age is counted by the journal's
// clock, so a wall clock that jumps lets no request id be forgotten.

// finishedTask is the room that a finished task takes up.
type finishedTask struct {
	jobs  int
	bytes int64 // of the records of the task and of its jobs
}

const finishedSize = 4 + 8

// putFinished notes that the task is over.
func putFinished(tx *bbolt.Tx, t *model.Task, up time.Duration) error {
	f := finishedTask{jobs: len(t.Jobs), bytes: int64(len(tx.Bucket(bucketTasks).Get([]byte(t.ID))))}
	for _, ref := range t.Jobs {
		f.bytes += int64(len(tx.Bucket(bucketJobs).Get([]byte(ref.Job))))
	}
	key := binary.BigEndian.AppendUint64(nil, uint64(max(0, up)))
	value := binary.BigEndian.AppendUint32(nil, uint32(f.jobs))
	return tx.Bucket(bucketFinished).Put(append(key, t.ID...), binary.BigEndian.AppendUint64(value, uint64(f.bytes)))
}

// Prune forgets finished tasks that ended before a reading of the journal's clock, and
// then the oldest tasks while the rest has more than so many jobs or bytes together. The
// last task to end always stays, and so does a task with a report that was not delivered.
func (jr *Journal) Prune(before time.Duration, keepJobs int, keepBytes int64) (n int, err error) {
	limit := binary.BigEndian.AppendUint64(nil, uint64(max(0, before)))
	due := func(tx *bbolt.Tx) (keys [][]byte, err error) {
		var sum finishedTask
		c := tx.Bucket(bucketFinished).Cursor()
		first := true
		for k, v := c.Last(); k != nil; k, v = c.Prev() {
			if len(k) < 8 || len(v) != finishedSize {
				return nil, fmt.Errorf("journal: decode finished task %x", k)
			}
			sum.jobs += int(binary.BigEndian.Uint32(v))
			sum.bytes += int64(binary.BigEndian.Uint64(v[4:]))
			over := !first && (sum.jobs > keepJobs || sum.bytes > keepBytes)
			if over || string(k[:8]) < string(limit) {
				keys = append(keys, slices.Clone(k))
			}
			first = false
		}
		slices.Reverse(keys)
		return keys, nil
	}
	// Mostly there is none, which is found out without a flush.
	err = jr.db.View(func(tx *bbolt.Tx) error {
		keys, err := due(tx)
		if err != nil || len(keys) == 0 {
			return err
		}
		waiting, err := waitingTasks(tx)
		for _, k := range keys {
			if !waiting[string(k[8:])] {
				n++
			}
		}
		return err
	})
	if n == 0 || err != nil {
		return 0, err
	}
	err = jr.update(func(tx *bbolt.Tx) error {
		n = 0
		waiting, err := waitingTasks(tx)
		if err != nil {
			return err
		}
		keys, err := due(tx)
		if err != nil {
			return err
		}
		for _, k := range keys {
			task := string(k[8:])
			if waiting[task] {
				continue
			}
			if err := forget(tx, task); err != nil {
				return err
			}
			if err := tx.Bucket(bucketFinished).Delete(k); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// waitingTasks are those with a report that was not delivered.
func waitingTasks(tx *bbolt.Tx) (map[string]bool, error) {
	waiting := map[string]bool{}
	err := eachEvent(tx, func(e *model.Event) error { waiting[e.Task] = true; return nil })
	return waiting, err
}

func forget(tx *bbolt.Tx, id string) error {
	var t model.Task
	if found, err := get(tx, bucketTasks, []byte(id), &t); err != nil || !found {
		return err
	}
	for _, ref := range t.Jobs {
		if err := unindexJob(tx, ref.Job); err != nil {
			return err
		}
		if err := tx.Bucket(bucketJobs).Delete([]byte(ref.Job)); err != nil {
			return err
		}
		for _, name := range [][]byte{bucketLatest, bucketEnded} {
			last := tx.Bucket(name)
			if string(last.Get([]byte(ref.Instance))) != ref.Job {
				continue
			}
			if err := last.Delete([]byte(ref.Instance)); err != nil {
				return err
			}
		}
	}
	if err := tx.Bucket(bucketRequests).Delete(requestKey(t.Tenant, t.RequestID)); err != nil {
		return err
	}
	return tx.Bucket(bucketTasks).Delete([]byte(id))
}
