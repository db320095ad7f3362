package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
	"holdfast/agent/model"
)

// How long watch waits before it asks an agent again that went
// away: an agent that was killed is back after five seconds.
const (
	watchPause    = 100 * time.Millisecond // the first time; then twice as long each time
	watchPauseMax = 5 * time.Second
)

func (a *app) watchCommand() *cobra.Command {
	var patience time.Duration
	cmd := a.askAgent(&cobra.Command{
		Use:   "watch TASK",
		Short: "Follow a task of a running agent until all its jobs ended",
		Long: "watch prints what happens to the jobs of a task. The exit code is 0 when all of them succeeded,\n" +
			"3 when some did, 1 when none did. An agent that goes away meanwhile is waited for.",
		Args: arguments("TASK"),
	}, "watch", func(ctx context.Context, c *api.Client, args []string) error {
		w := &watcher{
			app: a, patience: patience,
			bytes: make(map[string]model.Progress), stage: make(map[string]string), ended: make(map[string]int),
		}
		w.progress = a.newProgress("task")
		w.progress.emit = nil // with --json the events themselves are the lines
		err := w.follow(ctx, c, args[0])
		w.progress.finish()
		if err != nil {
			return err
		}
		return w.outcome()
	})
	cmd.Flags().DurationVar(&patience, "patience", 5*time.Minute, "`time` for which an agent that goes away is waited for")
	return cmd
}

// watcher shows the events of one task. It is for one goroutine.
type watcher struct {
	app      *app
	progress *progress
	patience time.Duration

	// By job.
	bytes map[string]model.Progress
	stage map[string]string // the last that was shown
	ended map[string]int    // status
}

// follow shows the events of a task until its jobs have ended, over the ends of agents.
func (w *watcher) follow(ctx context.Context, c *api.Client, task string) error {
	known := false     // the agent was there
	var gone time.Time // when it went; zero: it is there
	for pause := watchPause; ; pause = min(2*pause, watchPauseMax) {
		err := c.Watch(ctx, task, func(e api.Event) error {
			known, gone, pause = true, time.Time{}, watchPause
			return w.event(e)
		})
		cut, away := errors.Is(err, api.ErrCut), errors.Is(err, api.ErrNoAgent)
		known = known || cut
		switch {
		case !cut && !away, !known:
			return err
		case gone.IsZero():
			gone = time.Now()
			w.tellLost(pause, err)
		case time.Since(gone) > w.patience:
			return fmt.Errorf("the agent is away for more than %v: %w", w.patience, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellLost says that nothing will be seen for a while.
func (w *watcher) tellLost(pause time.Duration, err error) {
	a := w.app
	if !a.json {
		a.beside("the agent went away, waiting for it")
		return
	}
	a.printing.Lock()
	defer a.printing.Unlock()
	// there is nobody left to tell
	_ = encode(a.stderr, retryLine{"retry", pause.Seconds(), err.Error()}, "")
}

// event shows one event. An event that the agent repeats after an outage was shown already.
func (w *watcher) event(e api.Event) error {
	if _, ended := w.ended[e.JobID]; ended {
		return nil
	}
	switch e.Type {
	case api.EventStage:
		if w.stage[e.JobID] == e.Stage {
			return nil
		}
		w.stage[e.JobID] = e.Stage
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
		if model.State(e.Stage).Final() {
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
