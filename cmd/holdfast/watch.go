package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
	"holdfast/agent/job"
)

func (a *app) watchCommand() *cobra.Command {
	return a.askAgent(&cobra.Command{
		Use:   "watch TASK",
		Short: "Follow a task of a running agent until all its jobs ended",
		Long: "watch prints what happens to the jobs of a task. The exit code is 0 when all of them succeeded,\n" +
			"3 when some did, 1 when none did.",
		Args: arguments("TASK"),
	}, "watch", func(ctx context.Context, c *api.Client, args []string) error {
		w := &watcher{app: a, bytes: make(map[string]api.Progress), ended: make(map[string]int)}
		w.progress = a.newProgress("task")
		w.progress.emit = nil // with --json the events themselves are the lines
		err := c.Watch(ctx, args[0], w.event)
		w.progress.finish()
		if err != nil {
			return err
		}
		return w.outcome()
	})
}

// watcher shows the events of one task. It is for one goroutine.
type watcher struct {
	app      *app
	progress *progress
	bytes    map[string]api.Progress // by job
	ended    map[string]int          // status by job
}

func (w *watcher) event(e api.Event) error {
	switch e.Type {
	case api.EventEnded:
		w.ended[e.JobID] = e.Status
	case api.EventProgress:
		if e.Progress != nil {
			w.bytes[e.JobID] = *e.Progress
			var sum progressLine
			var total uint64
			for _, p := range w.bytes {
				sum.Bytes += p.BytesRead + p.BytesRestored
				sum.Files += p.Files
				total += p.BytesTotal
			}
			w.progress.expect(total)
			w.progress.set(sum)
		}
	}
	if w.app.json {
		return w.app.line(e)
	}
	if line := eventLine(e); line != "" {
		return w.progress.print(oneLine(line))
	}
	return nil
}

// eventLine tells an event in words; progress has none, since the bar shows it.
func eventLine(e api.Event) string {
	var what string
	switch e.Type {
	case api.EventProgress:
		return ""
	case api.EventStage:
		if job.State(e.Stage).Final() {
			return "" // the event of the job's end follows
		}
		what = e.Stage
	case api.EventWarning:
		what = "warning: " + e.Message
	case api.EventEnded:
		what = result(e.Status)
		if e.BackupID != "" {
			what += ", backup " + e.BackupID
		}
		if e.ErrorMsg != "" {
			what += ": " + e.ErrorMsg
		}
	default:
		what = strings.TrimSpace(e.Type + " " + e.Message + " " + e.ErrorMsg)
	}
	return fmt.Sprintf("%s  %s  %s", stamp(e.Time), e.InstanceID, what)
}

// outcome turns how the jobs ended into the command's result.
func (w *watcher) outcome() error {
	failed := 0
	for _, status := range w.ended {
		if status != api.StatusSuccess {
			failed++
		}
	}
	switch {
	case len(w.ended) == 0:
		return errors.New("the agent ended the stream before any job ended")
	case failed == 0:
		return nil
	case failed < len(w.ended):
		return &partError{fmt.Sprintf("%d of %d jobs failed", failed, len(w.ended))}
	}
	return fmt.Errorf("%s failed", count(failed, "job", "jobs"))
}
