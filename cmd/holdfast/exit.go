package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// Exit codes: an interface that scripts rely on.
const (
	exitDone        = 0
	exitFailed      = 1
	exitPart        = 3   // done in part; the command lists the missing parts
	exitNone        = 10  // no such vault or backup
	exitWrongKey    = 12  // the key does not open the vault
	exitUsage       = 64  // EX_USAGE of sysexits.h
	exitConfig      = 78  // EX_CONFIG
	exitInterrupted = 130 // 128 + SIGINT, as a shell has it
)

const exitCodeHelp = `Exit codes: 0 done, 1 failed, 3 done in part (what is missing is listed),
10 no such vault or backup, 12 wrong key, 64 usage, 78 configuration, 130 interrupted.`

// failure is the error of a command: its act, the thing it acted on, the place, and the reason.
type failure struct {
	doing string // verb and thing: "restore cp-7"
	place string // "vault default (file:///srv/store)"; "" where no vault is meant
	err   error
}

func (f *failure) Error() string {
	why := f.err.Error()
	if strings.HasPrefix(why, f.doing) { // restore and backup name their act themselves
		return why
	}
	return f.doing + ": " + why
}

func (f *failure) Unwrap() error { return f.err }

// usageError is a command line that says nothing that can be done.
type usageError struct {
	msg     string
	command string // whose help tells more
	advice  string // a hint in place of the pointer to the help
}

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...), command: "holdfast"}
}

// configError is a fault outside the command line that the operator mends: a key file, a variable.
type configError struct {
	err    error
	advice string
}

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// noBackupError names the backup that was asked for and is not there.
type noBackupError struct {
	id       string
	instance bool  // it was asked for as one of an instance
	err      error // wraps vault.ErrNoBackup
}

func (e *noBackupError) Error() string { return e.err.Error() }
func (e *noBackupError) Unwrap() error { return e.err }

// hintedError is an error for which the command itself knows what to do.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// partError says that the work is done except for the listed parts.
type partError struct{ msg string }

func (e *partError) Error() string { return e.msg }

// verdict is the process's exit code and words for an error.
type verdict struct {
	code int
	why  string // replaces the error's own text; "" keeps it. {vault} and {backup} are filled in
	hint string // "" takes the hint of internal/obs, where there is one
}

// verdicts maps the sentinels of the packages below. The first that matches counts.
var verdicts = []struct {
	is error
	verdict
}{
	{vault.ErrOnlyIncomplete, verdict{
		exitNone, "",
		"holdfast list shows the incomplete backups; name one with --backup to restore what it has",
	}},
	{errNothingVerified, verdict{
		exitNone, "{vault} has no backups, so nothing was checked",
		"check --store and --vault: a store that shows no backups by mistake looks the same; holdfast backup makes one",
	}},
	{vault.ErrNoBackup, verdict{
		exitNone, "no {backup} in {vault}",
		"holdfast list shows what the vault holds",
	}},
	{vault.ErrNoVault, verdict{
		exitNone, "there is no {vault}",
		"check --store and --vault (and --name-key, if the vault was made with one), see holdfast vault list, or make it: holdfast vault create",
	}},
	{vault.ErrWrongKey, verdict{
		exitWrongKey, "the key does not open {vault}",
		"give the file with an identity of one of the vault's recipients as --key or HOLDFAST_KEY",
	}},
	{vault.ErrVaultExists, verdict{
		exitFailed, "there is already a {vault}",
		"use it, or choose another name with --vault",
	}},
	{vault.ErrCorrupt, verdict{
		exitFailed, "",
		"holdfast verify --read-data 100 lists everything in the vault that is damaged",
	}},
	{restore.ErrTargetExists, verdict{
		exitFailed, "",
		"name a folder that does not exist yet or is empty; an image needs a file that does not exist yet",
	}},
	{restore.ErrNothingIncluded, verdict{
		exitFailed, "",
		"a pattern is compared with whole paths in the backup (media/*.jpg); one that names a folder takes all of it",
	}},
	// The store's own errors; obs.Hint knows the remedies.
	{obs.ErrNoBucket, verdict{exitNone, "", ""}},
	{obs.ErrAccess, verdict{exitFailed, "", ""}},
	{obs.ErrWrongRegion, verdict{exitFailed, "", ""}},
	{obs.ErrNoSpace, verdict{exitFailed, "", ""}},
	{obs.ErrFileSystem, verdict{exitFailed, "", ""}},
	{obs.ErrKMS, verdict{exitFailed, "", ""}},
	{obs.ErrProxy, verdict{exitFailed, "", ""}},
	{obs.ErrNoHost, verdict{exitFailed, "", ""}},
	{obs.ErrCold, verdict{exitFailed, "", ""}},
	{obs.ErrOdd, verdict{exitFailed, "", ""}},
	{obs.ErrUnavailable, verdict{exitFailed, "", ""}},
	// Of the disks of this host; the errors of a file store are among those above.
	{syscall.ENOSPC, verdict{exitFailed, "", "make room on that disk (df shows its space, df -i its inodes), or name a place on another"}},
	{syscall.EDQUOT, verdict{exitFailed, "", "raise the quota on that disk (quota shows it), or remove files that count against it"}},
	{syscall.EROFS, verdict{exitFailed, "", "mount that file system for writing, or name a place on another"}},
}

// judge finds the exit code, the message and the hint for an error.
// stopped tells that a signal came.
func judge(err error, stopped bool) (code int, msg, hint string) {
	var doing, place string
	var f *failure
	if errors.As(err, &f) {
		doing, place = f.doing+": ", f.place
	}
	if place == "" {
		place = "vault"
	}
	backup := "backup of this instance"
	var missing *noBackupError
	if errors.As(err, &missing) {
		backup = "backup " + name(missing.id)
		if missing.instance {
			backup += " of this instance"
		}
	}
	var (
		usage  *usageError
		config *configError
		part   *partError
		hinted *hintedError
	)
	switch {
	case stopped && (errors.Is(err, context.Canceled) || errors.Is(err, errInterrupted)):
		return exitInterrupted, doing + errInterrupted.Error(), ""
	case stopped:
		return exitInterrupted, err.Error(), ""
	case errors.As(err, &usage):
		if usage.advice != "" {
			return exitUsage, err.Error(), usage.advice
		}
		return exitUsage, err.Error(), usage.command + " --help"
	case errors.As(err, &config):
		return exitConfig, err.Error(), config.advice
	case errors.As(err, &part):
		return exitPart, err.Error(), ""
	case errors.As(err, &hinted):
		return exitFailed, err.Error(), hinted.hint
	case doubtHint(err) != "":
		return exitFailed, err.Error(), doubtHint(err)
	}
	known := verdicts
	if obs.Kind(err) == "other" { // no store says so
		known = slices.Concat(verdicts, localVerdicts)
	}
	for _, v := range known {
		if !errors.Is(err, v.is) {
			continue
		}
		msg = err.Error()
		if v.why != "" && f != nil {
			msg = doing + strings.NewReplacer("{vault}", place, "{backup}", backup).Replace(v.why)
		}
		if v.hint == "" {
			return v.code, msg, obs.Hint(err)
		}
		return v.code, msg, v.hint
	}
	return exitFailed, err.Error(), ""
}

// errorJSON is how --json tells an error, as one line on stderr.
type errorJSON struct {
	Type     string `json:"type"` // "error"
	ExitCode int    `json:"exit_code"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// report prints an error on stderr and returns the exit code for it.
func (a *app) report(ctx context.Context, err error) int {
	if context.Cause(ctx) == errReaderGone { //nolint:errorlint // the very value, as for interrupted
		return exitInterrupted // whoever closed the pipe has seen enough (holdfast ls … | head)
	}
	code, msg, hint := judge(err, interrupted(ctx))
	msg = sentence(msg)
	if a.json {
		if encode(a.stderr, errorJSON{"error", code, msg, hint}, "") == nil {
			return code
		}
	}
	fmt.Fprintf(a.stderr, "holdfast: %s\n", msg)
	if hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", oneLine(hint))
	}
	return code
}
