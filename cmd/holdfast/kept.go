package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

func (a *app) keptCommand() *cobra.Command {
	list := a.askAgent(&cobra.Command{
		Use:   "list",
		Short: "List the content that restores have replaced, and that is kept",
		Long: "list has the content that restores have taken out of the places of volumes and that may be in no backup. It is kept beside them for\n" +
			"as long as prepare.keep_replaced says; only time in which the host is up counts.",
		Args: arguments(),
	}, "kept list", func(ctx context.Context, c *api.Client, _ []string) error {
		kept, err := c.Kept(ctx)
		if err != nil {
			return err
		}
		if a.json {
			if kept == nil {
				kept = []api.KeptContent{}
			}
			return a.document(map[string]any{"kept": kept})
		}
		if len(kept) == 0 {
			a.say("nothing is kept")
			return nil
		}
		return a.keptTables(kept)
	})
	return group("kept", "Look after the content that restores have replaced", list,
		a.onKept("put-back", "Exchange the volumes of an instance with its kept content",
			"put-back exchanges the volumes of a stopped instance with the content that a restore has replaced. The present content is kept in turn,\n"+
				"so nothing is lost, and another put-back undoes it.", a.putBack),
		a.onKept("remove", "Remove the kept content of an instance",
			"remove deletes the replaced content before its time is over. It may be in no backup.", a.removeKept))
}

// keptTables shows the kept content, and where it lies.
func (a *app) keptTables(kept []api.KeptContent) error {
	rows := [][]string{{"INSTANCE", "JOB", "REPLACED", "REMOVED IN", "FILES", "BYTES", "NEWEST", "FROM BACKUP", "REPLACED BY", "TROUBLE"}}
	places := [][]string{{"INSTANCE", "VOLUME", "WAS AT", "IS AT"}}
	for _, k := range kept {
		left, more := clock(time.Duration(k.Left*float64(time.Second))), ""
		if k.Removing {
			left = "being removed"
		}
		if k.AtLeast {
			more = "+"
		}
		rows = append(rows, []string{
			k.InstanceID, k.JobID, stamp(k.Since), left, strconv.FormatUint(k.Files, 10) + more, size(k.Bytes) + more, when(k.Newest),
			dash(k.KnownBackup), dash(k.ReplacedBy), dash(keptTrouble(k)),
		})
		for _, v := range k.Volumes {
			places = append(places, []string{k.InstanceID, v.Name, name(v.From), name(v.Path)})
		}
	}
	if err := a.table(rows); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return a.table(places)
}

// keptTrouble says in one line the fact about kept content that people should know.
func keptTrouble(k api.KeptContent) string {
	switch {
	case k.Error != "":
		return oneLine(k.Error)
	case k.Partial:
		return "a removal had begun: it may not be whole, and can't be put back"
	case !k.Adopted.IsZero():
		return "the journal did not know it; found " + stamp(k.Adopted)
	}
	return ""
}

// onKept is a verb about the kept content of one instance.
func (a *app) onKept(verb, short, long string, do func(ctx context.Context, c *api.Client, instance, job string) error) *cobra.Command {
	var job string
	cmd := a.askAgent(&cobra.Command{
		Use: verb + " INSTANCE", Short: short, Long: long, Args: arguments("INSTANCE"),
	}, "kept "+verb, func(ctx context.Context, c *api.Client, args []string) error { return do(ctx, c, args[0], job) })
	cmd.Flags().StringVar(&job, "job", "", "the content that job `ID` has replaced; needed where several have")
	return cmd
}

func (a *app) putBack(ctx context.Context, c *api.Client, instance, job string) error {
	task, err := c.PutBack(ctx, instance, job)
	if err != nil {
		return err
	}
	if a.json {
		return a.document(task)
	}
	_, err = fmt.Fprintf(a.stdout, "task %[1]s puts back the kept content of %[2]s; holdfast watch %[1]s tells what comes of it\n", oneLine(task.TaskID), oneLine(instance))
	return err
}

func (a *app) removeKept(ctx context.Context, c *api.Client, instance, job string) error {
	if err := c.RemoveKept(ctx, instance, job); err != nil {
		return err
	}
	if a.json {
		return a.document(map[string]string{"removed": instance})
	}
	_, err := fmt.Fprintf(a.stdout, "the kept content of %s is removed\n", oneLine(instance))
	return err
}
