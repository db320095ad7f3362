package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// errReaderGone is the cause of a context that ended because nobody reads the command's output.
var errReaderGone = errors.New("nobody reads the output")

// watched is an output whose broken pipe ends the command as a signal would: the
// command undoes its unfinished work. It may be used as the writer below it may.
type watched struct {
	io.Writer
	gone context.CancelCauseFunc
}

// Write implements io.Writer.
func (w watched) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.gone(errReaderGone)
	}
	return n, err //nolint:wrapcheck // of the writer itself
}

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP (the terminal
// is gone) cancels with errInterrupted, so that the command undoes its unfinished work;
// the second signal ends the process at once. SIGPIPE does nothing from here on: writing
// fails instead. stop gives the signals back and waits for the goroutine that listened.
func interruptible(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup wants it ignored
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Never read: it takes the signal's default, to end the process.
	// Ignoring it would be passed on to children.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-quit:
			return
		case <-signals:
		}
		fmt.Fprintln(stderr, "holdfast: interrupted, stopping; once more ends at once")
		cancel(errInterrupted)
		select {
		case <-quit:
		case <-signals:
			os.Exit(exitInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(broken)
		close(quit)
		<-ended
		cancel(nil)
	}
}
