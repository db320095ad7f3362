// Command holdfast is the operator's tool: it makes keys and vaults, backs up,
// restores, lists and verifies without an agent, asks a running agent through
// its socket, and shows the whole job in a temporary folder (holdfast demo).
//
// It keeps no state of its own. When it is killed, it leaves only the leftovers of the
// packages below: packs that no manifest names, and an untouched target. The next
// backup of the same folder removes a snapshot that a killed process could not remove.
package main

import (
	"context"
	"io"
	"os"

	"golang.org/x/term"
)

func main() {
	os.Exit(run(os.Args[1:], world{
		stdout:      os.Stdout,
		stderr:      os.Stderr,
		getenv:      os.Getenv,
		terminal:    term.IsTerminal(int(os.Stderr.Fd())),
		outTerminal: term.IsTerminal(int(os.Stdout.Fd())),
	}))
}

// world is the part of the process that a run uses, so that tests can give their own.
type world struct {
	stdout io.Writer // results only
	stderr io.Writer // progress, summaries, warnings, errors
	getenv func(string) string

	terminal    bool // stderr is a terminal: progress bars may be drawn
	outTerminal bool // stdout is one
}

// run executes one command line and returns the exit code of the process.
func run(args []string, w world) int {
	ctx, stop := interruptible(w.stderr)
	defer stop()
	ctx, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	w.stdout = watched{w.stdout, gone}
	a := &app{world: w}
	root := a.command()
	root.SetArgs(args)
	root.SetOut(w.stdout)
	root.SetErr(w.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	return a.report(ctx, err)
}
