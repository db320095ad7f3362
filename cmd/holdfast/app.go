package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"

	"holdfast/internal/obs"
)

// app is one run of the tool: its surroundings and the flags that every command has. It is for one
// goroutine, except where a method says otherwise.
type app struct {
	world
	json  bool // --json
	quiet bool // --quiet

	printing sync.Mutex // held while something is printed beside the work
	bars     *mpb.Progress
	retried  time.Time // when a retry was last told
}

// command builds the tree of commands. Each verb has a file of its own.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Back up instances to object storage, and bring them back exactly",
		Long: "holdfast works on a vault (one tenant's backups in object storage) without an agent, and asks\n" +
			"a running agent (holdfastd) through its socket.\n\n" + exitCodeHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("no command given")
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{msg: err.Error(), command: cmd.CommandPath()}
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false,
		"print one JSON document, or JSON lines while working")
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false,
		"print results, warnings and errors only")
	root.AddCommand(
		a.demoCommand(), a.sampleCommand(),
		a.keyCommand(), a.storeCommand(), a.vaultCommand(),
		a.backupCommand(), a.restoreCommand(), a.listCommand(), a.lsCommand(), a.catCommand(),
		a.verifyCommand(), a.checkVolumeCommand(), a.volumeMarkCommand(),
		a.copyCommand(),
		a.forgetCommand(), a.unforgetCommand(), a.holdCommand(), a.unholdCommand(), a.pruneCommand(), a.statsCommand(),
		a.statusCommand(), a.instancesCommand(), a.jobsCommand(), a.watchCommand(), a.throttleCommand(), a.auditCommand(),
		a.drainCommand(), a.cancelCommand(), a.releaseCommand(), a.resumeCommand(), a.acceptForkCommand(), a.reportsCommand(), a.keptCommand(),
		a.requestCommand(), a.acceptLossCommand(), a.abandonCommand(), a.claimCommand(), a.retentionCommand(),
		a.versionCommand(),
	)
	return root
}

// noSuchCommand refuses arguments that name no command, with the names that are near.
func (a *app) noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(cmd, args[0])
}

// group is a command that only holds others (key, vault).
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return &usageError{msg: "no command given after " + use, command: cmd.CommandPath()}
		},
	}
	g.AddCommand(commands...)
	return g
}

func unknownCommand(cmd *cobra.Command, word string) error {
	msg := fmt.Sprintf("no command %q", word)
	// typing errors; cobra's own default only sets in on its own path
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		msg += fmt.Sprintf(" (nearest: %s)", strings.Join(near, ", "))
	}
	return &usageError{msg: msg, command: cmd.CommandPath()}
}

// arguments checks the number of arguments of a command and names the missing ones.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return &usageError{
				msg:     "missing " + strings.Join(names[len(args):], " "),
				command: cmd.CommandPath(),
			}
		case len(args) > len(names):
			return &usageError{
				msg:     fmt.Sprintf("unexpected argument %s", name(args[len(names)])),
				command: cmd.CommandPath(),
			}
		}
		return nil
	}
}

// say prints a line for a person on stderr, unless --quiet or --json asks for none.
func (a *app) say(format string, args ...any) {
	if a.quiet || a.json {
		return
	}
	fmt.Fprintf(a.stderr, format+"\n", args...)
}

// beside prints a line on stderr from any goroutine while a command
// works: above the bar, if there is one.
func (a *app) beside(format string, args ...any) {
	a.printing.Lock()
	defer a.printing.Unlock()
	line := fmt.Sprintf(format+"\n", args...)
	if a.bars != nil {
		if _, err := io.WriteString(a.bars, line); err == nil {
			return
		}
	}
	_, _ = io.WriteString(a.stderr, line) // there is nobody left to tell
}

// Bounds of the messages about a store that does not answer: a
// short fault is no news, a long one is reported now and then.
const (
	retryWorthTelling = time.Second
	retryTellEvery    = 10 * time.Second
)

// retryLine is a wait for the store, or for the agent, as a JSON line on stderr.
type retryLine struct {
	Type    string  `json:"type"` // "retry"
	Wait    float64 `json:"wait_seconds"`
	Message string  `json:"message"`
}

// retrying tells that the store does not answer. It is called from any goroutine.
func (a *app) retrying(e obs.RetryEvent) {
	if a.quiet || e.Wait < retryWorthTelling {
		return
	}
	a.printing.Lock()
	tell := a.retried.IsZero() || time.Since(a.retried) >= retryTellEvery
	if tell {
		a.retried = time.Now()
	}
	a.printing.Unlock()
	switch {
	case !tell:
	case a.json:
		a.printing.Lock()
		defer a.printing.Unlock()
		// as above
		_ = encode(a.stderr, retryLine{"retry", e.Wait.Seconds(), sentence(e.Err.Error())}, "")
	default:
		a.beside("waiting for the store, next try in %s: %s", seconds(e.Wait), sentence(e.Err.Error()))
	}
}

// sideWarning reports a weakness of a file store's file system, or
// another fault beside the work. It is called from any goroutine.
func (a *app) sideWarning(message string) {
	if !a.json {
		a.beside("warning: %s", oneLine(message))
		return
	}
	a.printing.Lock()
	defer a.printing.Unlock()
	_ = encode(a.stderr, warningLine{Type: "warning", What: message}, "") // as above
}

// interrupted reports whether a signal ended ctx.
func interrupted(ctx context.Context) bool {
	return context.Cause(ctx) == errInterrupted
}
