package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// defaultSocket is where holdfastd listens for operators if its configuration says nothing else.
const defaultSocket = "/run/holdfast/holdfast.sock"

// statusJSON is the agent and the jobs that have not ended.
type statusJSON struct {
	Agent api.Info      `json:"agent"`
	Jobs  []api.JobInfo `json:"jobs"`
}

// askAgent adds --socket to a command that talks to a running agent, and gives do a client for it.
func (a *app) askAgent(cmd *cobra.Command, doing string, do func(ctx context.Context, c *api.Client, args []string) error) *cobra.Command {
	var socket string
	cmd.Flags().StringVar(&socket, "socket", "",
		"`path` of the agent's socket ("+envSocket+"; \""+defaultSocket+"\" if not given)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := api.NewClient(a.value(socket, envSocket, defaultSocket))
		if err := do(cmd.Context(), c, args); err != nil {
			return &failure{doing: doing, err: reach(err)}
		}
		return nil
	}
	return cmd
}

// reach adds the remedy to an error of the socket itself.
func reach(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &hintedError{err, "run as root, or as a member of the group that the socket belongs to"}
	case errors.Is(err, api.ErrNoAgent):
		return &hintedError{err, "is holdfastd running? Its configuration says where its socket is; give that as --socket or " + envSocket}
	}
	return err
}

func (a *app) statusCommand() *cobra.Command {
	return a.askAgent(&cobra.Command{
		Use:   "status",
		Short: "Tell how a running agent is, and what it is doing",
		Args:  arguments(),
	}, "status", func(ctx context.Context, c *api.Client, _ []string) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		jobs, err := c.Jobs(ctx, api.JobFilter{Active: true})
		if err != nil {
			return err
		}
		if a.json {
			return a.document(statusJSON{info, jobs})
		}
		state := "running"
		if info.Draining {
			state = "draining"
		}
		_, err = fmt.Fprintf(a.stdout, "agent      %s, version %s, up %s\nhost       %s\nstore      %s\ninstances  %d\njobs       %d active, %d waiting\nreports    %d not acknowledged yet\n",
			state, oneLine(info.Version), clock(time.Since(info.Started)), name(info.HostID), oneLine(info.Store),
			info.Instances, info.JobsActive, info.JobsQueued, info.ReportsPending)
		if info.Throttle != nil && err == nil {
			_, err = fmt.Fprintf(a.stdout, "limits     %s\n", limitsInForce(*info.Throttle))
		}
		for _, t := range info.Troubles {
			if err == nil {
				err = a.printTrouble(t)
			}
		}
		if info.ReportsRefused > 0 && err == nil {
			_, err = fmt.Fprintf(a.stdout, "refused    %s by the control plane\nhint       holdfast reports list tells which and why; retry sends them again\n",
				count(info.ReportsRefused, "report", "reports"))
		}
		for _, l := range info.Leftovers {
			if err == nil {
				_, err = fmt.Fprintf(a.stdout, "leftover   %s, since %s, can't be removed: %s\n", name(l.Path), stamp(l.Since), oneLine(l.Error))
			}
		}
		if err != nil || len(jobs) == 0 {
			return err
		}
		fmt.Fprintln(a.stdout)
		return a.jobTable(jobs)
	})
}

func (a *app) instancesCommand() *cobra.Command {
	return a.askAgent(&cobra.Command{
		Use:   "instances",
		Short: "List the instances of a running agent",
		Args:  arguments(),
	}, "instances", func(ctx context.Context, c *api.Client, _ []string) error {
		instances, err := c.Instances(ctx)
		if err != nil {
			return err
		}
		if a.json {
			return a.document(map[string]any{"instances": instances})
		}
		rows := [][]string{{"INSTANCE", "TENANT", "RUNTIME", "STATE", "RELEASE", "JOB", "LAST BACKUP", "AT"}}
		for _, i := range instances {
			rows = append(rows, []string{
				i.ID, dash(i.Tenant), i.Runtime, i.State, i.Release, dash(i.Stage), dash(i.LastBackup), when(i.LastSuccess),
			})
		}
		if err := a.table(rows); err != nil {
			return err
		}
		return a.volumeTable(instances)
	})
}

func (a *app) jobsCommand() *cobra.Command {
	var f api.JobFilter
	cmd := a.askAgent(&cobra.Command{
		Use:   "jobs",
		Short: "List the jobs of a running agent, newest first",
		Args:  arguments(),
	}, "jobs", func(ctx context.Context, c *api.Client, _ []string) error {
		jobs, err := c.Jobs(ctx, f)
		if err != nil {
			return err
		}
		if a.json {
			return a.document(map[string]any{"jobs": jobs})
		}
		return a.jobTable(jobs)
	})
	cmd.Flags().StringVar(&f.TaskID, "task", "", "only those of task `ID`")
	cmd.Flags().StringVar(&f.InstanceID, "instance", "", "only those of instance `ID`")
	cmd.Flags().BoolVar(&f.Active, "active", false, "only those that have not ended")
	return cmd
}

func (a *app) jobTable(jobs []api.JobInfo) error {
	// BYTES counts the bytes that a backup has read, or that a restore has written.
	rows := [][]string{{"TASK", "INSTANCE", "KIND", "STAGE", "RESULT", "BYTES", "SENT", "BACKUP", "CREATED", "WHY"}}
	for _, j := range jobs {
		rows = append(rows, []string{
			j.TaskID, j.InstanceID, j.Kind, j.Stage, result(j.Status),
			size(j.Progress.BytesRead + j.Progress.BytesRestored), size(j.Progress.BytesSent), dash(j.BackupID), when(j.Created), dash(why(j)),
		})
	}
	return a.table(rows)
}

// result is a status of the contract in words.
func result(status int) string {
	switch status {
	case api.StatusRunning:
		return "running"
	case api.StatusSuccess:
		return "done"
	case api.StatusFailed:
		return "failed"
	}
	return strconv.Itoa(status)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return stamp(t)
}
