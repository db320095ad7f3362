package journal

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

func eachRefused(tx *bbolt.Tx, fn func(model.Refused) error) error {
	return tx.Bucket(bucketRefused).ForEach(func(k, v []byte) error {
		var r model.Refused
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("journal: decode refused event %x: %w", k, err)
		}
		return fn(r)
	})
}

// Refused returns the reports that the control plane refused, oldest first.
func (jr *Journal) Refused() (all []model.Refused, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return eachRefused(tx, func(r model.Refused) error { all = append(all, r); return nil })
	})
	return all, err
}

// RefusedReports counts the reports that the control plane refused.
func (jr *Journal) RefusedReports() (n int, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		n = count(tx.Bucket(bucketRefused))
		return nil
	})
	return n, err
}

// RetryRefused puts a refused report into the outbox again, with the number and the id that
// it had. A job that is held for it waits for its acknowledgement again: m has it then.
func (jr *Journal) RetryRefused(seq uint64, now time.Time) (m Moved, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		m = Moved{}
		r, held, err := refused(tx, seq)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketRefused).Delete(outboxKey(seq)); err != nil {
			return err
		}
		if err := enqueue(tx, r.Event); err != nil {
			return err
		}
		if held == nil || held.ResumeAsked {
			return nil
		}
		m = Moved{Job: held, From: held.State}
		held.State, held.Cause = model.Reported, ""
		held.Enter(now, jr.Up())
		return put(tx, bucketJobs, []byte(held.ID), held)
	})
	return m, err
}

// DropRefused forgets a refused report. ErrState when an instance is held for it.
func (jr *Journal) DropRefused(seq uint64) error {
	return jr.update(func(tx *bbolt.Tx) error {
		r, held, err := refused(tx, seq)
		if err != nil {
			return err
		}
		if held != nil {
			return fmt.Errorf("drop report %d: instance %q is held for it; resume the instance first, or release it: %w", seq, r.Instance, model.ErrState)
		}
		return tx.Bucket(bucketRefused).Delete(outboxKey(seq))
	})
}

// refused returns a refused report, or ErrNotFound, and the job
// that is held for it; nil where none is.
func refused(tx *bbolt.Tx, seq uint64) (r model.Refused, held *model.Job, err error) {
	found, err := get(tx, bucketRefused, outboxKey(seq), &r)
	if err != nil {
		return r, nil, err
	}
	if !found {
		return r, nil, fmt.Errorf("refused report %d: %w", seq, model.ErrNotFound)
	}
	id := tx.Bucket(bucketActive).Get([]byte(r.Instance))
	if string(id) != r.Job {
		return r, nil, nil
	}
	j, err := getJob(tx, r.Job)
	if err != nil || j.State != model.Held || j.ReportSeq != seq {
		return r, nil, err
	}
	return r, j, nil
}

// InOutbox tells whether the event with that number waits for its acknowledgement.
func (jr *Journal) InOutbox(seq uint64) (is bool, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		is = tx.Bucket(bucketOutbox).Get(outboxKey(seq)) != nil
		return nil
	})
	return is, err
}
