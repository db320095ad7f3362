package job

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// maxOutbox bounds the undelivered events: above it no command is accepted. It is far above what an
// outage of days makes, and below what would make reading the outbox slow.
const maxOutbox = 20_000

// keepRecent is how many events can be looked at again: those of some thousand jobs, in some 10 MB of disk.
const keepRecent = 4096

// outboxFull counts only when the range of the keys says that it may be.
func outboxFull(tx *bbolt.Tx) bool {
	b := tx.Bucket(bucketOutbox)
	first, _ := b.Cursor().First()
	if first == nil || b.Sequence()-binary.BigEndian.Uint64(first)+1 < maxOutbox {
		return false
	}
	n := 0
	for range keysOf(b) {
		n++
	}
	return n >= maxOutbox
}

func outboxKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// emit adds an event to the outbox in the transaction of the state that it reports.
func emit(tx *bbolt.Tx, job *Job, now time.Time, make func(*Job) (Event, error)) error {
	seq, err := tx.Bucket(bucketOutbox).NextSequence()
	if err != nil {
		return err
	}
	e, err := make(job)
	if err != nil {
		return err
	}
	e.Seq = seq
	e.ID = fmt.Sprintf("%s-%d", job.ID, seq)
	e.Instance, e.Task, e.Job = job.Instance, job.Task, job.ID
	e.Time = now.UTC()
	if e.Type == EventCompleted {
		job.ReportSeq = seq
	}
	if err := put(tx, bucketRecent, outboxKey(seq), e); err != nil {
		return err
	}
	if seq > keepRecent {
		if err := tx.Bucket(bucketRecent).Delete(outboxKey(seq - keepRecent)); err != nil {
			return err
		}
	}
	return put(tx, bucketOutbox, outboxKey(seq), e)
}

// Recent is an event of the past with whose it is.
type Recent struct {
	Event
	Tenant string // "" where its job is no longer known
}

// Recent returns at most limit events that follow the one with the number after, in order, and between which numbers the
// journal has any: oldest is 0 when it has none. Only the last keepRecent are kept.
func (jr *Journal) Recent(after uint64, limit int) (events []Recent, oldest, newest uint64, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketRecent).Cursor()
		first, _ := c.First()
		if first == nil {
			return nil
		}
		last, _ := c.Last()
		oldest, newest = binary.BigEndian.Uint64(first), binary.BigEndian.Uint64(last)
		if after >= newest {
			return nil
		}
		for k, v := c.Seek(outboxKey(after + 1)); k != nil && len(events) < limit; k, v = c.Next() {
			var e Recent
			if err := json.Unmarshal(v, &e.Event); err != nil {
				return fmt.Errorf("journal: decode event %x: %w", k, err)
			}
			j, err := getJob(tx, e.Job)
			switch {
			case err == nil:
				e.Tenant = j.Tenant
			case !errors.Is(err, ErrNotFound):
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, oldest, newest, err
}

func eachEvent(tx *bbolt.Tx, fn func(*Event) error) error {
	return tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		var e Event
		if err := json.Unmarshal(v, &e); err != nil {
			return fmt.Errorf("journal: decode event %x: %w", k, err)
		}
		return fn(&e)
	})
}

// Heads returns the oldest undelivered event of each instance, oldest first.
func (jr *Journal) Heads() (heads []Event, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		seen := map[string]bool{}
		return eachEvent(tx, func(e *Event) error {
			if !seen[e.Instance] {
				seen[e.Instance] = true
				heads = append(heads, *e)
			}
			return nil
		})
	})
	return heads, err
}

// PendingReports counts the undelivered events.
func (jr *Journal) PendingReports() (n int, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		for range keysOf(tx.Bucket(bucketOutbox)) {
			n++
		}
		return nil
	})
	return n, err
}

// settle takes an event out of the outbox because the control plane took it (refusal is empty) or
// refused it for good. The job that waits for it goes on in the same transaction: job is nil when
// none does.
func (jr *Journal) settle(seq uint64, refusal string, now time.Time) (job *Job, from State, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		job, from = nil, ""
		var e Event
		found, err := get(tx, bucketOutbox, outboxKey(seq), &e)
		if err != nil || !found {
			return err // settled before: a repeated answer is no fault
		}
		if err := tx.Bucket(bucketOutbox).Delete(outboxKey(seq)); err != nil {
			return err
		}
		if e.Type != EventCompleted {
			return nil
		}
		waiting, err := getJob(tx, e.Job)
		if err != nil {
			return err
		}
		from = waiting.State
		if refusal == "" {
			waiting.AcknowledgedAt = now.UTC()
		}
		if waiting.State == Reported && waiting.ReportSeq == seq {
			waiting.State = Acknowledged
			if refusal != "" {
				// A release that was asked for before has to be asked for again: it sends the report again.
				waiting.State, waiting.Cause, waiting.ReleaseAsked = Held, refusal, false
			}
			waiting.enter(now, jr.Up())
			job = waiting
		}
		return put(tx, bucketJobs, []byte(waiting.ID), waiting)
	})
	return job, from, err
}
