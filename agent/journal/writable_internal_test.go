package journal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/agent/model"
)

// TestWritable: a write that hangs, and a journal that can't be
// written, show; a full disk shows as such; and afterwards all is well.
func TestWritable(t *testing.T) {
	jr, err := Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := jr.Writable(t.Context()); err != nil {
		t.Fatal(err)
	}
	jr.write.began = time.Time{} // long ago
	inside, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- jr.update(func(*bbolt.Tx) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	<-inside
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := jr.Writable(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a write hangs: %v", err)
		}
		cancel()
	}
	close(leave)
	if err := errors.Join(<-left, jr.Writable(t.Context())); err != nil {
		t.Errorf("it does not hang any more: %v", err)
	}
	jr.write.mu.Lock()
	jr.write.outcome, jr.write.began = fmt.Errorf("write: %w", syscall.ENOSPC), time.Now()
	jr.write.mu.Unlock()
	if err := jr.Writable(t.Context()); err != nil { // it looks again after a failure
		t.Errorf("the disk has room again: %v", err)
	}
	if err := jr.Close(); err != nil {
		t.Fatal(err)
	}
	jr.write.mu.Lock()
	jr.write.began = time.Time{}
	jr.write.mu.Unlock()
	if err := jr.Writable(t.Context()); err == nil || errors.Is(err, ErrFull) {
		t.Errorf("closed: %v", err)
	}
}

// fill makes a journal of a host with many finished jobs, a hundred
// of each command, and returns its path.
func fill(tb testing.TB, jobs, keepJobs int, keepBytes int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "journal")
	jr, err := Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	jr.db.NoSync = true
	receipt := make([]byte, 2200)
	for i := range receipt {
		receipt[i] = 'r'
	}
	for n := 0; n < jobs; n += 100 {
		task := model.Task{ID: fmt.Sprintf("task-%d", n), RequestID: fmt.Sprintf("request-%d", n), Tenant: fmt.Sprintf("tenant-%d", n/100%10)}
		var list []model.Job
		for i := range 100 {
			j := model.Job{
				ID: fmt.Sprintf("job-%08d", n+i), Task: task.ID, Instance: fmt.Sprintf("instance-%d", i), Tenant: task.Tenant, State: model.Accepted,
				Entered: map[model.State]time.Time{model.Accepted: time.Now()}, AcceptedAt: time.Now(),
			}
			task.Jobs = append(task.Jobs, model.JobRef{Instance: j.Instance, Job: j.ID})
			list = append(list, j)
		}
		if _, made, err := jr.Accept(task, list); err != nil || !made {
			tb.Fatal(made, err)
		}
		err := jr.update(func(tx *bbolt.Tx) error {
			for _, ref := range task.Jobs {
				j, err := getJob(tx, ref.Job)
				if err != nil {
					return err
				}
				for _, s := range []model.State{model.Freezing, model.Frozen, model.Snapshotting, model.Snapshotted, model.Uploading, model.Stored, model.Reported, model.Acknowledged, model.Releasing, model.Released, model.Done} {
					j.State = s
					j.Enter(time.Now(), jr.Up())
				}
				j.Result = &model.Result{BackupID: "00000001-20261130T060144Z-0ff072d0e5c9e2bb", Object: "v/13ff52e42eed91ff630d9ffd27cde000/backups/x", Files: 1000}
				if keepJobs < 0 { // as it was: with the report of each job
					j.CompletedReport = fmt.Appendf(nil, "%q", receipt)
				}
				if err := put(tx, bucketJobs, []byte(j.ID), j); err != nil {
					return err
				}
				if err := finish(tx, j, jr.Up()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
		if keepJobs > 0 {
			if _, err := jr.Prune(0, keepJobs, keepBytes); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := errors.Join(jr.db.Sync(), jr.Close()); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BenchmarkLargeJournal opens the journal of a host that has done 72,000 jobs, and
// lists a tenant's jobs: "kept" has all of them with their reports, as a bound by
// tasks keeps them, and "bounded" has the jobs that remain under the bounds.
func BenchmarkLargeJournal(b *testing.B) {
	jobs := 72_000
	if testing.Short() {
		jobs = 10_000 // enough for a page of a tenant
	}
	for _, c := range []struct {
		name string
		keep int
	}{{"kept", -1}, {"bounded", 20_000}} {
		path := ""
		all := b // whose folder outlives the folder of the part
		b.Run(c.name+"/open", func(b *testing.B) {
			if path == "" {
				path = fill(all, jobs, c.keep, 32<<20)
			}
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				jr, err := Open(path)
				if err != nil {
					b.Fatal(err)
				}
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.Sys-before.Sys)/(1<<20), "MiB-sys")
				_ = jr.db.View(func(tx *bbolt.Tx) error { b.ReportMetric(float64(tx.Size())/(1<<20), "MiB-file"); return nil })
				if err := jr.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		if path == "" { // not asked for
			continue
		}
		jr, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/page", func(b *testing.B) {
			for b.Loop() {
				if list, _, err := jr.List(Query{Tenant: "tenant-3", Limit: 1000}); err != nil || len(list) != 1000 {
					b.Fatal(len(list), err)
				}
			}
		})
		b.Run(c.name+"/all", func(b *testing.B) {
			for b.Loop() {
				if _, _, err := jr.List(Query{Tenant: "tenant-3"}); err != nil {
					b.Fatal(err)
				}
			}
		})
		if err := jr.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
