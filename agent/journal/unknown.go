package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// A record that this program can't understand stops nothing but its own job or task. Opening
// the journal moves such a record to a bucket of its own, whole, and puts the certain facts
// into its place: a job gets the state Unknown, in which nothing is done to its instance, until
// an operator gives the job up or a program that understands the record opens the journal.

// UnknownRecord is a record of the journal that could not be understood when the journal was
// opened: the record is no valid JSON, or has a state or a kind that this program does not know.
type UnknownRecord struct {
	Bucket   string    `json:"bucket"` // in which the record was found
	Key      []byte    `json:"key"`
	Value    []byte    `json:"value"` // as the record was found
	Why      string    `json:"why"`
	Instance string    `json:"instance,omitempty"` // "" where that is not known
	Job      string    `json:"job,omitempty"`      // "" where the record is of no job
	Found    time.Time `json:"found"`              // UTC
}

// keepUnknown is how long a record that is of no unfinished job is kept for people to look at.
const keepUnknown = 30 * 24 * time.Hour

var (
	knownKinds    = []model.Kind{"", model.KindBackup, model.KindRestore}
	knownPolicies = []model.Policy{"", model.ReleaseByAgent, model.ReleaseByControlPlane}
	knownModes    = []model.Mode{"", model.ModePrecopy, model.ModeFrozen, model.ModeStop, model.ModeLive}
)

// understand tells why the record of a job can't be worked with; nil when the record can.
func understand(key, value []byte) error {
	var j model.Job
	if err := json.Unmarshal(value, &j); err != nil {
		return fmt.Errorf("its record is damaged: %w", err)
	}
	switch {
	case !j.State.Known():
		return fmt.Errorf("its record has the state %.40q, which this program does not know", j.State)
	case !slices.Contains(knownKinds, j.Kind):
		return fmt.Errorf("its record has the kind %.40q, which this program does not know", j.Kind)
	case !slices.Contains(knownPolicies, j.Policy):
		return fmt.Errorf("its record has the policy %.40q, which this program does not know", j.Policy)
	case !slices.Contains(knownModes, j.Mode):
		return fmt.Errorf("its record has the mode %.40q, which this program does not know", j.Mode)
	case j.ID != string(key), j.Instance == "", j.Entered == nil:
		return errors.New("its record is damaged: the id, the instance or the times of its states are missing")
	}
	return nil
}

// sortOut is one look at all records.
type sortOut struct {
	tx    *bbolt.Tx
	now   time.Time
	found []UnknownRecord
}

// setUnknownAside moves the records that can't be understood, and repairs what points
// to records that are not there. It runs in the transaction that opens the journal.
func (jr *Journal) setUnknownAside(tx *bbolt.Tx) error {
	s := &sortOut{tx: tx, now: time.Now().UTC()}
	if err := errors.Join(s.again(), s.look()); err != nil {
		return err
	}
	jr.found = map[string]bool{}
	for i := range s.found {
		r := &s.found[i]
		if err := s.aside(r); err != nil {
			return fmt.Errorf("journal %s: set the record %s %q aside: %w", jr.path, r.Bucket, r.Key, err)
		}
		jr.found[string(r.key())] = true
	}
	return s.pointers()
}

func (r *UnknownRecord) key() []byte { return append([]byte(r.Bucket+"\x00"), r.Key...) }

// again puts the records of jobs back that an earlier program set aside and this
// program understands, and forgets old records that belong to no unfinished job.
func (s *sortOut) again() error {
	var back []UnknownRecord
	var old [][]byte
	err := s.tx.Bucket(bucketUnknown).ForEach(func(k, v []byte) error {
		var r UnknownRecord
		if json.Unmarshal(v, &r) != nil {
			old = append(old, slices.Clone(k))
			return nil
		}
		unfinished := false
		if r.Bucket == string(bucketJobs) {
			j, err := getJob(s.tx, r.Job)
			unfinished = err == nil && j.State == model.Unknown
		}
		switch {
		case unfinished && understand(r.Key, r.Value) == nil:
			back = append(back, r)
		case !unfinished && s.now.Sub(r.Found) > keepUnknown:
			old = append(old, slices.Clone(k))
		}
		return nil
	})
	for i := range back {
		err = errors.Join(err, s.putBack(&back[i]))
	}
	for _, k := range old {
		err = errors.Join(err, s.tx.Bucket(bucketUnknown).Delete(k))
	}
	return err
}

// putBack puts one record back, with the present state of its report.
func (s *sortOut) putBack(r *UnknownRecord) error {
	var j model.Job
	stub, err := getJob(s.tx, r.Job)
	if err = errors.Join(err, json.Unmarshal(r.Value, &j)); err != nil {
		return err
	}
	switch waits := s.tx.Bucket(bucketOutbox).Get(outboxKey(j.ReportSeq)) != nil; {
	case j.State != model.Reported || waits:
	case stub.AcknowledgedAt.IsZero():
		j.State, j.Cause = model.Held, "the control plane did not take the report while this host did not understand the job's record"
		j.Entered[model.Held] = s.now
	default:
		j.State, j.AcknowledgedAt = model.Acknowledged, stub.AcknowledgedAt
		j.Entered[model.Acknowledged] = s.now
	}
	return errors.Join(put(s.tx, bucketJobs, r.Key, j), s.tx.Bucket(bucketUnknown).Delete(r.key()))
}

// look finds the records that can't be understood.
func (s *sortOut) look() error {
	jsonOf := func(make func() any) func(k, v []byte) error {
		return func(_, v []byte) error { return json.Unmarshal(v, make()) }
	}
	numbered := func(k, v []byte) error {
		var e model.Event
		if err := json.Unmarshal(v, &e); err != nil {
			return err
		}
		if !bytes.Equal(k, outboxKey(e.Seq)) {
			return fmt.Errorf("it has the number %d", e.Seq)
		}
		return nil
	}
	for _, b := range []struct {
		name  []byte
		sound func(k, v []byte) error
	}{
		{bucketJobs, understand},
		{bucketTasks, jsonOf(func() any { return new(model.Task) })},
		{bucketOutbox, numbered},
		{bucketRecent, numbered},
		{bucketRefused, numbered},
		{bucketBases, jsonOf(func() any { return new(model.Base) })},
		{bucketLeftovers, jsonOf(func() any { return new(model.Leftover) })},
		{bucketAside, soundAside},
		{bucketContent, jsonOf(func() any { return new(model.Content) })},
		{bucketAccepted, jsonOf(func() any { return new(model.AcceptedLoss) })},
		{bucketFinished, func(k, v []byte) error {
			if len(k) < 8 || len(v) != finishedSize {
				return errors.New("it has another length")
			}
			return nil
		}},
	} {
		err := s.tx.Bucket(b.name).ForEach(func(k, v []byte) error {
			if err := b.sound(k, v); err != nil {
				s.found = append(s.found, UnknownRecord{Bucket: string(b.name), Key: slices.Clone(k), Value: slices.Clone(v), Why: err.Error(), Found: s.now})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// aside moves one record, and puts the certain facts into its place.
func (s *sortOut) aside(r *UnknownRecord) error {
	switch r.Bucket {
	case string(bucketContent):
		r.Instance = string(r.Key)
		if err := put(s.tx, bucketContent, r.Key, model.Content{Doubt: "the journal's record of it was damaged"}); err != nil {
			return err
		}
	case string(bucketJobs):
		j, err := s.salvageJob(r)
		if err != nil {
			return err
		}
		r.Job, r.Instance = j.ID, j.Instance
		if err := put(s.tx, bucketJobs, r.Key, j); err != nil {
			return err
		}
	case string(bucketTasks):
		t, err := s.salvageTask(string(r.Key))
		if err != nil {
			return err
		}
		if err := put(s.tx, bucketTasks, r.Key, t); err != nil {
			return err
		}
	default:
		if r.Bucket == string(bucketOutbox) {
			if err := s.holdFor(r); err != nil {
				return err
			}
		}
		if err := s.tx.Bucket([]byte(r.Bucket)).Delete(r.Key); err != nil {
			return err
		}
	}
	return put(s.tx, bucketUnknown, r.key(), r)
}

// salvageJob makes the job of a record that can't be understood: from the readable
// parts of the record, from the indexes, and with a state in which nothing happens.
func (s *sortOut) salvageJob(r *UnknownRecord) (*model.Job, error) {
	var j model.Job
	var fields map[string]json.RawMessage
	if json.Unmarshal(r.Value, &fields) == nil {
		for name, value := range fields { // one by one: a field that can't be read takes no other field with it
			if one, err := json.Marshal(map[string]json.RawMessage{name: value}); err == nil {
				_ = json.Unmarshal(one, &j)
			}
		}
	}
	j.ID, j.State, j.Cause = string(r.Key), model.Unknown, r.Why
	if !slices.Contains(knownKinds, j.Kind) {
		j.Kind = model.KindBackup
	}
	if !slices.Contains(knownPolicies, j.Policy) {
		j.Policy = model.ReleaseByControlPlane
	}
	if !slices.Contains(knownModes, j.Mode) {
		j.Mode = model.ModeFrozen
	}
	err := s.tx.Bucket(bucketInstances).ForEach(func(k, v []byte) error {
		id, tenant, _ := bytes.Cut(v, []byte{0})
		if string(id) == j.ID && len(k) > 9 {
			j.Instance, j.Tenant, j.Seq = string(k[:len(k)-9]), string(tenant), binary.BigEndian.Uint64(k[len(k)-8:])
		}
		return nil
	})
	active := false
	err = errors.Join(err, s.tx.Bucket(bucketActive).ForEach(func(instance, id []byte) error {
		if string(id) == j.ID {
			active, j.Instance = true, string(instance)
		}
		return nil
	}), s.tx.Bucket(bucketTasks).ForEach(func(id, v []byte) error {
		var t model.Task
		if json.Unmarshal(v, &t) == nil && slices.ContainsFunc(t.Jobs, func(ref model.JobRef) bool { return ref.Job == j.ID }) {
			j.Task = string(id)
		}
		return nil
	}))
	if j.Entered == nil {
		j.Entered = map[model.State]time.Time{}
	}
	j.Entered[model.Unknown] = s.now
	if !active {
		j.State, j.Cause, j.Hold = model.Failed, "how the job ended is not known: "+r.Why, false
		j.Entered[model.Failed] = s.now
	}
	return &j, err
}

// salvageTask makes the task of a record that can't be understood, of the jobs that name the
// task. The same request is refused as a request that was used before with another body.
func (s *sortOut) salvageTask(id string) (*model.Task, error) {
	t := &model.Task{ID: id, Accepted: s.now}
	var jobs []*model.Job
	err := s.tx.Bucket(bucketJobs).ForEach(func(_, v []byte) error {
		var j model.Job
		if json.Unmarshal(v, &j) == nil && j.Task == id {
			jobs = append(jobs, &j)
		}
		return nil
	})
	sortJobs(jobs)
	for _, j := range jobs {
		t.Tenant, t.Accepted = j.Tenant, j.AcceptedAt
		t.Jobs = append(t.Jobs, model.JobRef{Instance: j.Instance, Job: j.ID})
	}
	return t, errors.Join(err, s.tx.Bucket(bucketRequests).ForEach(func(k, v []byte) error {
		if string(v) == id {
			if _, request, ok := bytes.Cut(k, []byte{0}); ok {
				t.RequestID = string(request)
			}
		}
		return nil
	}))
}

// holdFor holds the job that waits for a report which can't be
// read: a release sends the report again, out of the job's record.
func (s *sortOut) holdFor(r *UnknownRecord) error {
	jobs, err := activeJobs(s.tx)
	for _, j := range jobs {
		if j.State != model.Reported || !bytes.Equal(r.Key, outboxKey(j.ReportSeq)) {
			continue
		}
		j.State, j.Cause, j.ReleaseAsked = model.Held, "the report in the journal is damaged: "+r.Why, false
		j.Entered[model.Held] = s.now
		r.Instance, r.Job = j.Instance, j.ID
		err = errors.Join(err, put(s.tx, bucketJobs, []byte(j.ID), j))
	}
	return err
}

// pointers removes what points to jobs that are not there.
func (s *sortOut) pointers() error {
	jobs := s.tx.Bucket(bucketJobs)
	for _, name := range [][]byte{bucketActive, bucketLatest, bucketEnded, bucketOrder, bucketTenants, bucketInstances} {
		b := s.tx.Bucket(name)
		var lost [][]byte
		if err := b.ForEach(func(k, v []byte) error {
			if id, _, _ := bytes.Cut(v, []byte{0}); jobs.Get(id) == nil {
				lost = append(lost, slices.Clone(k))
			}
			return nil
		}); err != nil {
			return err
		}
		for _, k := range lost {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// Unknown returns the records that can't be understood: the records of
// unfinished jobs, and the records that this opening of the journal found.
func (jr *Journal) Unknown() (all []UnknownRecord, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketUnknown).ForEach(func(k, v []byte) error {
			var r UnknownRecord
			if err := json.Unmarshal(v, &r); err != nil {
				return nil //nolint:nilerror // the next opening removes the record
			}
			shown := jr.found[string(k)]
			if r.Bucket == string(bucketJobs) {
				j, err := getJob(tx, r.Job)
				shown = err == nil && (j.State == model.Unknown || shown && j.State == model.Failed)
			}
			if shown {
				all = append(all, r)
			}
			return nil
		})
	})
	return all, err
}

// About names the subject of the record for people.
func (r *UnknownRecord) About() string {
	switch r.Bucket {
	case string(bucketJobs):
		return "job " + r.Job
	case string(bucketTasks):
		return "task " + string(r.Key)
	case string(bucketOutbox), string(bucketRecent), string(bucketRefused):
		if len(r.Key) == 8 {
			return fmt.Sprintf("report %d", binary.BigEndian.Uint64(r.Key))
		}
	case string(bucketContent):
		return "which backup the volumes come from"
	case string(bucketAccepted):
		return "an accepted loss"
	}
	return fmt.Sprintf("%s %q", r.Bucket, strings.ReplaceAll(string(r.Key), "\x00", " "))
}
