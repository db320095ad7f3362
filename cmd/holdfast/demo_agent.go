package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"holdfast/agent"
	"holdfast/agent/config"
)

// demoAgent is an agent that runs inside this process.
type demoAgent struct {
	*agent.Agent
	url   string
	log   *bytes.Buffer // its log; only read once the agent has ended
	end   context.CancelFunc
	ended chan error
}

// errAgentEnded is the cause of the end of an agent that the demo no longer needs.
var errAgentEnded = errors.New("the demo is over")

// startAgent starts the agent and returns once it takes commands.
func (d *demo) startAgent(ctx context.Context) (*demoAgent, error) {
	file, err := d.config()
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	log := new(bytes.Buffer)
	ready := make(chan struct{})
	opened, err := agent.Open(ctx, agent.Options{
		Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), Version: build().Version,
		Ready: func() { close(ready) },
	})
	if err != nil {
		return nil, err
	}
	// Not ctx: Ctrl-C first ends the demo, which then ends the agent in order.
	running, end := context.WithCancelCause(context.WithoutCancel(ctx))
	a := &demoAgent{
		Agent: opened, url: "https://" + opened.Addr(), log: log,
		end: func() { end(errAgentEnded) }, ended: make(chan error, 1),
	}
	go func() { a.ended <- opened.Run(running) }()
	select {
	case <-ready:
		return a, nil
	case err := <-a.ended:
		a.ended <- nil
		return nil, errors.Join(err, errors.New("the agent ended at its start"))
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), a.Close())
	}
}

// Close ends the agent and waits for it. An error comes with the agent's log.
func (a *demoAgent) Close() error {
	a.end()
	if err := <-a.ended; err != nil {
		return fmt.Errorf("the agent ended with: %w; it logged:\n%s", err, a.log)
	}
	return nil
}

// config is the agent's configuration, as an operator would write it.
func (d *demo) config() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	verb := func(v string) []string { return []string{program, "sample-instance", v, d.sample.dir} }
	// YAML takes JSON as it is, which saves quoting the paths.
	text, err := json.MarshalIndent(map[string]any{
		"host_id":          "demo-host",
		"state_dir":        d.in("state"),
		"listen":           "127.0.0.1:0",
		"metrics_listen":   "",
		"socket":           d.in("agent.sock"),
		"tls":              map[string]any{"cert_file": d.certificate.certFile, "key_file": d.certificate.keyFile},
		"tokens_file":      d.in("tokens"),
		"store":            map[string]any{"url": d.storeURL(), "name_key_file": d.in("name.key")},
		"key_file":         d.in("host.key"),
		"signing_key_file": d.in("signing.pem"),
		"report": map[string]any{
			"url": d.plane.url, "ca_file": d.certificate.certFile, "token_file": d.in("report.token"),
		},
		"instances": []any{map[string]any{
			"id": demoInstance, "tenant": demoTenant,
			"runtime": map[string]any{"exec": map[string]any{
				"state": verb("state"), "freeze": verb("freeze"), "thaw": verb("thaw"), "power_down": verb("power-down"),
			}},
			"volumes": []any{map[string]any{"name": volumeName, "path": d.sample.volume()}},
		}},
	}, "", "  ")
	if err != nil {
		return "", err
	}
	file := d.in("holdfast.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", err
	}
	return file, nil
}
