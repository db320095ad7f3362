package job

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
	"holdfast/internal/crashpoint"
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

// retryRefused puts a refused report into the outbox again, with the number and the id that
// it had. A job that is held for it waits for its acknowledgement again: m has it then.
func (jr *Journal) retryRefused(seq uint64, now time.Time) (m moved, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		m = moved{}
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
		m = moved{job: held, from: held.State}
		held.State, held.Cause = model.Reported, ""
		held.Enter(now, jr.Up())
		return put(tx, bucketJobs, []byte(held.ID), held)
	})
	return m, err
}

// dropRefused forgets a refused report. ErrState when an instance is held for it.
func (jr *Journal) dropRefused(seq uint64) error {
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

// Refused returns the reports that the control plane refused, oldest first.
func (m *Manager) Refused() ([]model.Refused, error) { return m.journal.Refused() }

// RetryRefused sends a refused report again, with the same id.
// ErrNotFound when there is none of that number.
func (m *Manager) RetryRefused(seq uint64) error {
	moved, err := m.journal.retryRefused(seq, m.opts.Now())
	if err != nil {
		return err
	}
	wake(m.outbox)
	m.tell(moved)
	return nil
}

// DropRefused forgets a refused report: the control plane never gets it. ErrNotFound
// when there is none of that number, ErrState when an instance is held for it.
func (m *Manager) DropRefused(seq uint64) error { return m.journal.dropRefused(seq) }

// GiveUp takes a report out of the outbox that is never acknowledged, as Refuse does, so that
// later reports of its instance get through. ErrNotFound when none of that number waits.
func (m *Manager) GiveUp(seq uint64) error {
	waits, err := m.journal.inOutbox(seq)
	if err != nil {
		return err
	}
	if !waits {
		return fmt.Errorf("waiting report %d: %w", seq, model.ErrNotFound)
	}
	return m.settle(crashpoint.WriteHeld, []uint64{seq}, "an operator gave the report up, which was not acknowledged")
}

func (jr *Journal) inOutbox(seq uint64) (is bool, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		is = tx.Bucket(bucketOutbox).Get(outboxKey(seq)) != nil
		return nil
	})
	return is, err
}

// Waiting returns the oldest undelivered event of each instance, oldest first.
func (m *Manager) Waiting() ([]model.Event, error) { return m.journal.Heads(maxOutbox, nil) }

// tell tells everybody, and the job's worker, about a job that a transaction has moved.
func (m *Manager) tell(one moved) {
	if one.job != nil {
		m.changed(one.job, one.from)
		m.signal(one.job.ID)
	}
}
