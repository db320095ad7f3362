package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// Jobs are listed by indexes in the order of acceptance: of all jobs,
// of a tenant's jobs and of an instance's jobs. The cost of a page
// depends on the jobs in the page, however many jobs the journal has.

// Query says which jobs a list has.
type Query struct {
	// All lists the jobs of every tenant. Without it, the list has only the jobs of Tenant.
	All      bool
	Tenant   string
	Task     string // "" is any
	Instance string // "" is any
	Active   bool   // only jobs that are not over
	// Before lists only jobs that were accepted before the one with
	// this Job.Seq; 0 begins with the newest.
	Before uint64
	// Limit is the most jobs that a page has; 0 is no limit.
	Limit int
}

func (q *Query) wants(j *model.Job) bool {
	return (q.All || q.Tenant == j.Tenant) && (q.Task == "" || q.Task == j.Task) && (q.Instance == "" || q.Instance == j.Instance) &&
		(!q.Active || !j.State.Final()) && (q.Before == 0 || j.Seq < q.Before)
}

// orderKey is the end of each index key; owner is a tenant or an
// instance, "" in the index of all jobs.
func orderKey(owner string, seq uint64) []byte {
	var key []byte
	if owner != "" {
		key = append([]byte(owner), 0)
	}
	return binary.BigEndian.AppendUint64(key, seq)
}

// indexJob puts a job into the indexes.
func indexJob(tx *bbolt.Tx, j *model.Job) error {
	owned := append([]byte(j.ID+"\x00"), j.Tenant...)
	return errors.Join(
		tx.Bucket(bucketOrder).Put(orderKey("", j.Seq), []byte(j.ID)),
		tx.Bucket(bucketTenants).Put(orderKey(j.Tenant, j.Seq), []byte(j.ID)),
		tx.Bucket(bucketInstances).Put(orderKey(j.Instance, j.Seq), owned))
}

// unindexJob takes a job out of the indexes.
func unindexJob(tx *bbolt.Tx, id string) error {
	j, err := getJob(tx, id)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(
		tx.Bucket(bucketOrder).Delete(orderKey("", j.Seq)),
		tx.Bucket(bucketTenants).Delete(orderKey(j.Tenant, j.Seq)),
		tx.Bucket(bucketInstances).Delete(orderKey(j.Instance, j.Seq)))
}

// List returns the jobs of a page, the newest first, and what
// Query.Before is for the next page: 0 when there is none.
func (jr *Journal) List(q Query) (jobs []*model.Job, next uint64, err error) {
	switch {
	case q.Task != "": // at most the instances of one command
		_, jobs, err = jr.Task(q.Task)
		if errors.Is(err, model.ErrNotFound) {
			return nil, 0, nil
		}
	case q.Active: // at most one job for each instance
		jobs, err = jr.Active()
	default:
		err = jr.db.View(func(tx *bbolt.Tx) error {
			jobs, next, err = page(tx, q)
			return err
		})
		return jobs, next, err
	}
	if err != nil {
		return nil, 0, err
	}
	jobs = slices.DeleteFunc(jobs, func(j *model.Job) bool { return !q.wants(j) })
	sortJobs(jobs)
	slices.Reverse(jobs)
	if q.Limit > 0 && len(jobs) > q.Limit {
		jobs = jobs[:q.Limit]
		next = jobs[q.Limit-1].Seq
	}
	return jobs, next, nil
}

// page reads one page of an index.
func page(tx *bbolt.Tx, q Query) (jobs []*model.Job, next uint64, err error) {
	bucket, owner := bucketOrder, ""
	switch {
	case q.Instance != "":
		bucket, owner = bucketInstances, q.Instance
	case !q.All:
		if q.Tenant == "" { // nobody's
			return nil, 0, nil
		}
		bucket, owner = bucketTenants, q.Tenant
	}
	before := q.Before
	if before == 0 {
		before = ^uint64(0)
	}
	prefix := orderKey(owner, 0)
	prefix = prefix[:len(prefix)-8]
	c := tx.Bucket(bucket).Cursor()
	step := c.Prev
	if k, _ := c.Seek(orderKey(owner, before)); k == nil { // before lies behind all keys
		step = c.Last
	}
	for k, v := step(); k != nil && hasPrefix(k, prefix) && len(k) == len(prefix)+8; k, v = c.Prev() {
		id, tenant, owned := bytes.Cut(v, []byte{0})
		if owned && !q.All && string(tenant) != q.Tenant {
			continue
		}
		if q.Limit > 0 && len(jobs) == q.Limit {
			return jobs, jobs[q.Limit-1].Seq, nil
		}
		j, err := getJob(tx, string(id))
		if err != nil {
			return nil, 0, fmt.Errorf("journal: index of jobs: %w", err)
		}
		jobs = append(jobs, j)
	}
	return jobs, 0, nil
}
