package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// journalVersion is the version of the buckets' content. A program takes no
// journal of another version. Version 2 has restores, version 3 has the journal's own
// clock, indexes of the jobs, lines of events and refused reports, and version 4 names the jobs
// of a task as the answers to commands do.
const journalVersion = 4

// lockTimeout is how long Open waits for another process to let go: the old process of a
// restart may still be closing.
const lockTimeout = 2 * time.Second

// The buckets.
var (
	bucketMeta     = []byte("meta")     // "version" -> decimal
	bucketTasks    = []byte("tasks")    // task id -> Task
	bucketRequests = []byte("requests") // tenant 0x00 request id -> task id
	bucketJobs     = []byte("jobs")     // job id -> Job
	bucketActive   = []byte("active")   // instance -> id of its unfinished job
	bucketLatest   = []byte("latest")   // instance -> id of its last backup that was done
	bucketEnded    = []byte("ended")    // instance -> id of its last job that is over
	bucketContent  = []byte("content")  // instance -> Content; is never forgotten
	bucketOutbox   = []byte("outbox")   // big-endian seq -> Event
	// instance 0x00 big-endian seq -> nothing; each event of the outbox
	bucketLines = []byte("lines")
	// big-endian seq -> instance; the oldest event of each instance in the outbox
	bucketHeads   = []byte("heads")
	bucketRefused = []byte("refused") // big-endian seq -> Refused
	// big-endian seq -> Event; the last keepRecent, delivered or not
	bucketRecent    = []byte("recent")
	bucketBases     = []byte("bases")     // instance 0x00 volume -> Base
	bucketLeftovers = []byte("leftovers") // provider 0x00 path -> Leftover
	bucketAside     = []byte("aside")     // instance 0x00 job id -> Aside
	bucketPacks     = []byte("packs")     // job id 0x00 pack id -> nothing
	bucketFinished  = []byte("finished")  // big-endian Journal.Up in ns, task id -> finishedTask
	bucketOrder     = []byte("order")     // big-endian Job.Seq -> job id
	bucketTenants   = []byte("tenants")   // tenant 0x00 big-endian Job.Seq -> job id
	bucketInstances = []byte("instances") // instance 0x00 big-endian Job.Seq -> job id 0x00 tenant
	bucketUnknown   = []byte("unknown")   // bucket 0x00 key -> UnknownRecord
	bucketAccepted  = []byte("accepted")  // instance -> AcceptedLoss
	keyVersion      = []byte("version")
	allBuckets      = [][]byte{
		bucketMeta, bucketTasks, bucketRequests, bucketJobs, bucketActive, bucketLatest, bucketOutbox, bucketPacks, bucketFinished,
		bucketEnded, bucketContent, bucketRecent, bucketBases, bucketLeftovers, bucketLines, bucketHeads, bucketRefused,
		bucketOrder, bucketTenants, bucketInstances, bucketAside, bucketUnknown, bucketAccepted,
	}
)

// errDamaged says that the journal's file differs from the written one.
var errDamaged = errors.New("is damaged")

// Journal is the file in which tasks, jobs and undelivered reports live. One
// process has it open at a time. Every method is one transaction, or a part of one,
// durable when it returns nil, and may be called from any goroutine. Close it last.
type Journal struct {
	db    *bbolt.DB
	path  string
	aside string

	commits commits
	clock   uptime
	write   writeCheck
	told    atomic.Pointer[func(error)]  // see WatchWrites
	found   map[string]bool              // keys of the unknown records that this opening found
	ticks   atomic.Int64                 // that are under way
	guard   atomic.Pointer[func() error] // see Guard
}

// Close closes the file. It is idempotent.
func (jr *Journal) Close() error { return jr.db.Close() }

// Path is where the journal lies.
func (jr *Journal) Path() string { return jr.path }

func put(tx *bbolt.Tx, bucket, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("journal: encode %s %q: %w", bucket, key, err)
	}
	return tx.Bucket(bucket).Put(key, b)
}

// get fills v, and reports false when the key is not there.
func get(tx *bbolt.Tx, bucket, key []byte, v any) (bool, error) {
	b := tx.Bucket(bucket).Get(key)
	if b == nil {
		return false, nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("journal: decode %s %q: %w", bucket, key, err)
	}
	return true, nil
}

func getJob(tx *bbolt.Tx, id string) (*model.Job, error) {
	var j model.Job
	found, err := get(tx, bucketJobs, []byte(id), &j)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("job %s: %w", id, model.ErrNotFound)
	}
	return &j, nil
}

func requestKey(tenant, requestID string) []byte {
	return []byte(tenant + "\x00" + requestID)
}

func findRequest(tx *bbolt.Tx, tenant, requestID string, digest [32]byte) (*model.Task, error) {
	id := tx.Bucket(bucketRequests).Get(requestKey(tenant, requestID))
	if id == nil {
		return nil, nil
	}
	var t model.Task
	found, err := get(tx, bucketTasks, id, &t)
	if err != nil || !found {
		return nil, err
	}
	if t.Digest != digest {
		return nil, fmt.Errorf("request id %q: %w", requestID, model.ErrRequestReused)
	}
	return &t, nil
}

// Request returns the task that the tenant's request made, nil when it is new, or ErrRequestReused.
func (jr *Journal) Request(tenant, requestID string, digest [32]byte) (t *model.Task, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		t, err = findRequest(tx, tenant, requestID, digest)
		return err
	})
	return t, err
}

func hasPrefix(k, prefix []byte) bool {
	return len(k) >= len(prefix) && string(k[:len(prefix)]) == string(prefix)
}

// Job returns one job, or ErrNotFound.
func (jr *Journal) Job(id string) (job *model.Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		job, err = getJob(tx, id)
		return err
	})
	return job, err
}

// Task returns one task with its jobs in the order of the command, or ErrNotFound.
func (jr *Journal) Task(id string) (t *model.Task, jobs []*model.Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		t = &model.Task{}
		found, err := get(tx, bucketTasks, []byte(id), t)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("task %s: %w", id, model.ErrNotFound)
		}
		for _, ref := range t.Jobs {
			job, err := getJob(tx, ref.Job)
			if err != nil {
				return err
			}
			jobs = append(jobs, job)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return t, jobs, nil
}

// Active returns the unfinished jobs in the order of acceptance.
func (jr *Journal) Active() (jobs []*model.Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		jobs, err = activeJobs(tx)
		return err
	})
	sortJobs(jobs)
	return jobs, err
}

func activeJobs(tx *bbolt.Tx) (jobs []*model.Job, err error) {
	err = tx.Bucket(bucketActive).ForEach(func(_, id []byte) error {
		job, err := getJob(tx, string(id))
		if err == nil {
			jobs = append(jobs, job)
		}
		return err
	})
	return jobs, err
}

// ByInstance returns the unfinished job of the instance and its
// last backup that was done; nil where there is none.
func (jr *Journal) ByInstance(instance string) (active, latest *model.Job, err error) {
	err = jr.db.View(func(tx *bbolt.Tx) error {
		if id := tx.Bucket(bucketActive).Get([]byte(instance)); id != nil {
			if active, err = getJob(tx, string(id)); err != nil {
				return err
			}
		}
		if id := tx.Bucket(bucketLatest).Get([]byte(instance)); id != nil {
			if latest, err = getJob(tx, string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	return active, latest, err
}

func sortJobs(jobs []*model.Job) {
	slices.SortFunc(jobs, func(a, b *model.Job) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
}

// Busy is a *BusyError where unfinished jobs work on any of the instances, and nil where none does.
func (jr *Journal) Busy(instances ...string) error {
	var busy model.BusyError
	err := jr.db.View(func(tx *bbolt.Tx) error {
		for _, instance := range instances {
			id := tx.Bucket(bucketActive).Get([]byte(instance))
			if id == nil {
				continue
			}
			j, err := getJob(tx, string(id))
			if err != nil {
				return err
			}
			busy.Add(j)
		}
		return nil
	})
	if err == nil && len(busy.Instances) > 0 {
		return &busy
	}
	return err
}

func keysOf(b *bbolt.Bucket) func(yield func(k []byte) bool) {
	return func(yield func(k []byte) bool) {
		c := b.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if !yield(k) {
				return
			}
		}
	}
}

func count(b *bbolt.Bucket) (n int) {
	for range keysOf(b) {
		n++
	}
	return n
}
