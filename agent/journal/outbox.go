package journal

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// MaxOutbox bounds the events that are undelivered or refused: above
// it no command is accepted. An outage of days makes far fewer.
const MaxOutbox = 20_000

// keepRecent is how many events can be looked at again:
// the events of some thousand jobs, in some 10 MB of disk.
const keepRecent = 4096

// outboxFull counts only when the ranges of the keys say that it may be.
func outboxFull(tx *bbolt.Tx) bool {
	least := uint64(0)
	outbox, refused := tx.Bucket(bucketOutbox), tx.Bucket(bucketRefused)
	for _, b := range []*bbolt.Bucket{outbox, refused} {
		if first, _ := b.Cursor().First(); first != nil {
			least += outbox.Sequence() - binary.BigEndian.Uint64(first) + 1
		}
	}
	return least >= MaxOutbox && count(outbox)+count(refused) >= MaxOutbox
}

func outboxKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// emit adds an event to the outbox in the transaction of the state that it reports.
func emit(tx *bbolt.Tx, job *model.Job, now time.Time, make func(*model.Job) (model.Event, error)) error {
	seq, err := tx.Bucket(bucketOutbox).NextSequence()
	if err != nil {
		return err
	}
	e, err := make(job)
	if err != nil {
		return err
	}
	e.Seq = seq
	e.ID = fmt.Sprintf("%s-%d-%s", cmp.Or(job.ID, job.Instance), seq, ownPart())
	e.Instance, e.Task, e.Job = job.Instance, job.Task, job.ID
	e.Time = now.UTC()
	if e.Type == model.EventCompleted {
		// This report takes the place of a refused report.
		if err := tx.Bucket(bucketRefused).Delete(outboxKey(job.ReportSeq)); err != nil {
			return err
		}
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
	return enqueue(tx, e)
}

// tell adds an event to the outbox that no step of a job makes. The event has its type, instance,
// tenant and data, and the job that it is about, if any.
func tell(tx *bbolt.Tx, now time.Time, e model.Event) error {
	return emit(tx, &model.Job{ID: e.Job, Instance: e.Instance}, now, func(*model.Job) (model.Event, error) { return e, nil })
}

// Tell adds an event to the outbox that is about no job. The event has its type, tenant and data;
// its instance is the line of the outbox, whose events are delivered in order.
func (jr *Journal) Tell(e model.Event, now time.Time) error {
	return jr.update(func(tx *bbolt.Tx) error { return tell(tx, now, e) })
}

// ownPart is what makes the ids of events differ that two copies of one journal
// would make of the same job, with the same number.
func ownPart() string {
	var r [4]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(r[:])
}

// The outbox is one line of events for each instance. Two buckets say where each line
// begins, so that the oldest events of all instances are found without a look at the others.

func lineKey(instance string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(instance+"\x00"), seq)
}

// headOf returns the number of the oldest event of the instance in
// the outbox; 0 when there is none.
func headOf(tx *bbolt.Tx, instance string) uint64 {
	prefix := []byte(instance + "\x00")
	k, _ := tx.Bucket(bucketLines).Cursor().Seek(prefix)
	if !hasPrefix(k, prefix) {
		return 0
	}
	return binary.BigEndian.Uint64(k[len(prefix):])
}

// enqueue puts an event into the outbox, by its number: before later ones of its instance.
func enqueue(tx *bbolt.Tx, e model.Event) error {
	heads, before := tx.Bucket(bucketHeads), headOf(tx, e.Instance)
	if before == 0 || e.Seq < before {
		if err := heads.Delete(outboxKey(before)); err != nil {
			return err
		}
		if err := heads.Put(outboxKey(e.Seq), []byte(e.Instance)); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketLines).Put(lineKey(e.Instance, e.Seq), nil); err != nil {
		return err
	}
	return put(tx, bucketOutbox, outboxKey(e.Seq), e)
}

// indexOutbox makes the lines and heads anew from the outbox, at the
// start: no damage of the index keeps an event from being delivered.
func indexOutbox(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketLines, bucketHeads} {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	lines, heads, seen := tx.Bucket(bucketLines), tx.Bucket(bucketHeads), map[string]bool{}
	return tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		var e struct{ Instance string }
		if err := json.Unmarshal(v, &e); err != nil {
			return fmt.Errorf("journal: decode event %x: it %w: %w", k, errDamaged, err)
		}
		if !seen[e.Instance] {
			seen[e.Instance] = true
			if err := heads.Put(k, []byte(e.Instance)); err != nil {
				return err
			}
		}
		return lines.Put(lineKey(e.Instance, binary.BigEndian.Uint64(k)), nil)
	})
}

// dequeue takes an event out of the outbox.
func dequeue(tx *bbolt.Tx, e model.Event) error {
	heads, key := tx.Bucket(bucketHeads), outboxKey(e.Seq)
	if err := errors.Join(tx.Bucket(bucketOutbox).Delete(key), tx.Bucket(bucketLines).Delete(lineKey(e.Instance, e.Seq)), heads.Delete(key)); err != nil {
		return err
	}
	if next := headOf(tx, e.Instance); next != 0 {
		return heads.Put(outboxKey(next), []byte(e.Instance))
	}
	return nil
}

// Recent is an event of the past with whose it is.
type Recent struct {
	model.Event
	Tenant string // "" where its job is no longer known
}

// Recent returns at most limit events that follow the one with the
// number after, in order, and between which numbers the journal has
// any: oldest is 0 when it has none. Only the last keepRecent are kept.
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
			case e.Event.Tenant != "":
				e.Tenant = e.Event.Tenant
			case err == nil:
				e.Tenant = j.Tenant
			case !errors.Is(err, model.ErrNotFound):
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, oldest, newest, err
}

func eachEvent(tx *bbolt.Tx, fn func(*model.Event) error) error {
	return tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		var e model.Event
		if err := json.Unmarshal(v, &e); err != nil {
			return fmt.Errorf("journal: decode event %x: %w", k, err)
		}
		return fn(&e)
	})
}

// Heads returns at most limit undelivered events, oldest first: the oldest
// of each instance, except instances that skip leaves out. skip may be nil.
func (jr *Journal) Heads(limit int, skip func(instance string) bool) (heads []model.Event, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketHeads).Cursor()
		for k, instance := c.First(); k != nil && len(heads) < limit; k, instance = c.Next() {
			if skip != nil && skip(string(instance)) {
				continue
			}
			var e model.Event
			found, err := get(tx, bucketOutbox, k, &e)
			if err != nil {
				return err
			}
			if !found {
				return fmt.Errorf("journal: event %x begins the line of %q and is not in the outbox: it %w", k, instance, errDamaged)
			}
			heads = append(heads, e)
		}
		return nil
	})
	return heads, err
}

// Waits tells whether an event of the instance is in the outbox.
func (jr *Journal) Waits(instance string) (waits bool, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		waits = headOf(tx, instance) != 0
		return nil
	})
	return waits, err
}

// PendingReports counts the undelivered events.
func (jr *Journal) PendingReports() (n int, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		n = count(tx.Bucket(bucketOutbox))
		return nil
	})
	return n, err
}

// Moved is a job that a transaction has brought into another state.
type Moved struct {
	Job  *model.Job
	From model.State
}

// Settle takes events out of the outbox, all in one transaction, because the
// control plane took them (refusal is empty) or never will: then they stay among
// the refused ones. The jobs that wait for them go on in the same transaction.
func (jr *Journal) Settle(seqs []uint64, refusal string, now time.Time) (all []Moved, err error) {
	err = jr.update(func(tx *bbolt.Tx) error {
		all = nil
		for _, seq := range seqs {
			m, err := jr.settleOne(tx, seq, refusal, now)
			if err != nil {
				return err
			}
			if m.Job != nil {
				all = append(all, m)
			}
		}
		return nil
	})
	return all, err
}

func (jr *Journal) settleOne(tx *bbolt.Tx, seq uint64, refusal string, now time.Time) (m Moved, err error) {
	var e model.Event
	found, err := get(tx, bucketOutbox, outboxKey(seq), &e)
	if err != nil || !found {
		return m, err // settled before: a repeated answer is no fault
	}
	if err := dequeue(tx, e); err != nil {
		return m, err
	}
	if refusal != "" {
		if err := put(tx, bucketRefused, outboxKey(seq), model.Refused{Event: e, Reason: refusal, Since: now.UTC()}); err != nil {
			return m, err
		}
	}
	if e.Type != model.EventCompleted {
		return m, nil
	}
	waiting, err := getJob(tx, e.Job)
	if errors.Is(err, model.ErrNotFound) {
		return m, nil // forgotten, long after it ended
	}
	if err != nil {
		return m, err
	}
	m.From = waiting.State
	if refusal == "" {
		waiting.AcknowledgedAt = now.UTC()
	}
	if waiting.State == model.Reported && waiting.ReportSeq == seq {
		waiting.State = model.Acknowledged
		if refusal != "" {
			// A release that was asked for before has to be asked for
			// again: it sends the report again.
			waiting.State, waiting.Cause, waiting.ReleaseAsked = model.Held, refusal, false
		}
		waiting.Enter(now, jr.Up())
		m.Job = waiting
	}
	return m, put(tx, bucketJobs, []byte(waiting.ID), waiting)
}
