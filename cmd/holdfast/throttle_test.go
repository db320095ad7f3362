package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/agent"
	"holdfast/agent/config"
)

// runAgent runs a real agent with a configuration file, until the
// script ends. $WORK stands for the script's folder in it.
func runAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: real-agent CONFIGURATION")
	}
	text := os.Expand(ts.ReadFile(args[0]), func(string) string { return ts.MkAbs(".") })
	cfg, err := config.Parse([]byte(text), args[0])
	ts.Check(err)
	ready := make(chan struct{})
	a, err := agent.Open(context.Background(), agent.Options{
		Config: cfg, Version: "1.2.3", Ready: func() { close(ready) }, Log: slog.New(slog.NewTextHandler(ts.Stderr(), nil)),
	})
	ts.Check(err)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	ts.Defer(func() {
		end()
		ts.Check(<-ended)
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		ts.Fatalf("the agent ended at its start: %v", err)
	}
	ts.Setenv("HOLDFAST_SOCKET", filepath.Join(ts.MkAbs("."), "agent.sock"))
}
