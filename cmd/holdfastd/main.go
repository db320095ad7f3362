// Command holdfastd is the backup agent of one host. Run without a command it
// serves until it is told to stop, in the foreground or under a service manager;
// the other commands check its configuration and manage it as a service.
//
// It starts one goroutine beside the goroutines of package agent. That goroutine runs
// the agent, so that the service manager's library can wait for a signal or for the
// agent's end. After a crash the next start finishes or undoes the unfinished work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// Exit codes: an interface that scripts rely on.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 64  // EX_USAGE of sysexits.h
	exitConfig      = 78  // EX_CONFIG
	exitInterrupted = 130 // 128 + SIGINT, as a shell has it
)

const usage = `holdfastd is the backup agent of one host.

Usage:
  holdfastd [--config FILE] [COMMAND]

Without a command it serves in the foreground, or under the service manager that started it.

Commands:
  adopt          decide whose the state folder is when the agent stands still, since the folder may be a copy:
                 --take-over has this machine go on as the host, --new makes it another host
  held           list the instances that are held; exit code 1 when there are any
  check-config   check the configuration and the files that it names; list every fault
  install        install and enable holdfast.service (not where a package has installed it)
  uninstall      stop and remove what install has installed
  start          start the service
  stop           stop the service
  restart        restart the service
  status         tell whether the service runs; exit code 0 when it does
  version        print the version

Flags:
  --config FILE  the configuration (default ` + config.DefaultPath + `)
  --help         print this

Exit codes: 0 done, 1 failed, 64 usage, 78 configuration, 130 interrupted.
`

// usageError is a command line that says nothing that can be done.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// errInterrupted ends a run that SIGINT stopped in good order.
var errInterrupted = errors.New("interrupted")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes one command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	err := execute(args, stdout, stderr)
	var (
		misused *usageError
		faults  *config.Faults
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &misused):
		fmt.Fprintf(stderr, "holdfastd: %v\nhint: holdfastd --help\n", err)
		return exitUsage
	case errors.As(err, &faults):
		fmt.Fprintf(stderr, "holdfastd: %v\n", err)
		return exitConfig
	case errors.Is(err, errNoConfig):
		fmt.Fprintf(stderr, "holdfastd: %v\n", err)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(stderr, "hint: begin with a copy of /usr/share/doc/holdfast/examples/holdfast.yaml")
		}
		return exitConfig
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.Is(err, errHeld):
		return exitFailed // the list says it all
	default:
		fmt.Fprintf(stderr, "holdfastd: %v\n", err)
		if hint := obs.Hint(err); hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", hint)
		}
		return exitFailed
	}
}

func execute(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("holdfastd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	path := flags.String("config", config.DefaultPath, "")
	renew := flags.Bool("new", false, "")
	takeOver := flags.Bool("take-over", false, "")
	var words []string
	for rest := args; ; { // flags may stand before and after the command
		if err := flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			_, err := io.WriteString(stdout, usage)
			return err
		} else if err != nil {
			return &usageError{err.Error()}
		}
		if flags.NArg() == 0 {
			break
		}
		words, rest = append(words, flags.Arg(0)), flags.Args()[1:]
	}
	if *path == "" {
		return &usageError{"--config names no file"}
	}
	if len(words) > 1 {
		return &usageError{"one command at a time, got " + strings.Join(words, ", ")}
	}
	if (*renew || *takeOver) && (len(words) == 0 || words[0] != "adopt") {
		return &usageError{"--new and --take-over are for adopt"}
	}
	if len(words) == 0 {
		return serve(context.Background(), *path, stderr)
	}
	switch words[0] {
	case "adopt":
		return adopt(*path, *renew, *takeOver, stdout)
	case "check-config":
		return checkConfig(*path, stdout)
	case "held":
		return held(*path, stdout)
	case "install", "uninstall", "start", "stop", "restart", "status":
		return manage(words[0], *path, stdout)
	case "version":
		_, err := fmt.Fprintln(stdout, "holdfastd", buildVersion())
		return err
	default:
		return &usageError{fmt.Sprintf("no command %q", words[0])}
	}
}
