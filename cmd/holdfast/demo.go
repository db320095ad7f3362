package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/auth"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// Names and bounds of the demo.
const (
	demoTenant   = "demo"
	demoInstance = "cp-1"
	// demoTimeout ends a demo that hangs; it takes a few seconds on a slow machine.
	demoTimeout = 3 * time.Minute
	// demoHold is how long the control plane keeps its acknowledgement
	// back, so that a power-down before it would show.
	demoHold = 300 * time.Millisecond
	// demoRecords is how many records the instance writes before a backup is asked for.
	demoRecords = 25
)

// demo is one run of the demonstration. It is for one goroutine.
type demo struct {
	*app
	dir         string
	steps       int
	token       string // of the command
	reportToken string
	identity    *vault.Identity
	nameKey     []byte
	store       obs.Store
	sample      sample
	instance    *exec.Cmd
	certificate *certificate
	plane       *plane
	agent       *demoAgent
}

// stepLine is a step of the demo as a JSON line.
type stepLine struct {
	Type string `json:"type"` // "step"
	Step int    `json:"step"`
	Name string `json:"name"`
	Text string `json:"text"`
}

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole job in a temporary folder: no root, no server, nothing left behind",
		Long: "demo makes keys, a file store and a sample instance that keeps writing, starts the agent inside\n" +
			"this process, and sends it the control plane's backup command over TLS. It checks the signed\n" +
			"receipt, acknowledges the report, sees the instance powered down only then, restores the backup\n" +
			"elsewhere and compares everything; then once more after a small change.",
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.demo(cmd.Context(), keep); err != nil {
				return &failure{doing: "demo", err: err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the temporary folder and print where it is")
	return cmd
}

func (a *app) demo(ctx context.Context, keep bool) (err error) {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, fmt.Errorf("not finished after %v", demoTimeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return err
	}
	d := &demo{
		app: a, dir: dir, token: auth.NewToken(), reportToken: auth.NewToken(),
		sample: sample{filepath.Join(dir, "instance")},
	}
	if !a.json && !a.quiet {
		fmt.Fprintf(a.stdout, "The whole job in %s\n\n", dir)
	}
	defer func() {
		if err = errors.Join(err, d.close()); !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, do := range []func(context.Context) error{d.keys, d.vault, d.files, d.start, d.first, d.second} {
		if err := do(ctx); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx) // what failed because of it says less
			}
			return err
		}
	}
	text := fmt.Sprintf("all of it in %s", seconds(time.Since(start)))
	if keep {
		text += "; kept in " + dir
	}
	return d.step("done", "%s", text)
}

// step prints one step and its figures.
func (d *demo) step(name, format string, args ...any) error {
	d.steps++
	text := fmt.Sprintf(format, args...)
	switch {
	case d.json:
		return d.line(stepLine{"step", d.steps, name, text})
	case d.quiet:
		return nil
	}
	_, err := fmt.Fprintf(d.stdout, "%2d  %-10s %s\n", d.steps, name, text)
	return err
}

// in is a path in the demo's folder.
func (d *demo) in(elements ...string) string {
	return filepath.Join(append([]string{d.dir}, elements...)...)
}

// close ends what runs, in reverse order of the start.
func (d *demo) close() error {
	var err error
	if d.agent != nil {
		// The agent answers reports first, so nobody may wait for the control plane.
		err = errors.Join(err, d.agent.Close())
	}
	if d.plane != nil {
		err = errors.Join(err, d.plane.Close())
	}
	err = errors.Join(err, d.stopInstance())
	if d.store != nil {
		err = errors.Join(err, d.store.Close())
	}
	return err
}

// keys makes every secret of the demo.
func (d *demo) keys(context.Context) error {
	recipient, err := newKey(d.in("host.key"))
	if err != nil {
		return err
	}
	if _, err := newKey(d.in("recovery.key")); err != nil {
		return err
	}
	if d.identity, err = vault.LoadIdentity(d.in("host.key")); err != nil {
		return err
	}
	d.nameKey = []byte(auth.NewToken())
	token := fmt.Sprintf("%s tenant=%s user=demo role=control-plane\n", auth.HashToken(d.token), demoTenant)
	d.certificate, err = newCertificate(d.in("cert.pem"), d.in("cert.key"))
	err = errors.Join(err,
		os.WriteFile(d.in("name.key"), append(d.nameKey, '\n'), 0o600),
		os.WriteFile(d.in("tokens"), []byte(token), 0o600),
		os.WriteFile(d.in("report.token"), []byte(d.reportToken+"\n"), 0o600),
	)
	if err != nil {
		return err
	}
	return d.step("keys", "host %s…, and a recovery key", recipient[:16])
}

// vault makes the tenant's vault in a file store.
func (d *demo) vault(ctx context.Context) error {
	recovery, err := vault.LoadIdentity(d.in("recovery.key"))
	if err != nil {
		return err
	}
	d.store, err = obs.Open(ctx, d.storeURL(), obs.Options{Getenv: d.getenv, Create: true})
	if err != nil {
		return err
	}
	v, err := vault.Create(ctx, d.store, demoTenant, d.nameKey, []string{recovery.Recipient()}, d.identity)
	if err != nil {
		return err
	}
	defer v.Close()
	return d.step("vault", "%s, opened by the host's key and the recovery key", v.Info().ID)
}

func (d *demo) storeURL() string { return "file://" + d.in("store") }

// files makes the sample instance and starts it.
func (d *demo) files(ctx context.Context) error {
	if err := os.MkdirAll(d.sample.volume(), 0o755); err != nil {
		return err
	}
	if err := fillVolume(d.sample.volume()); err != nil {
		return err
	}
	if err := d.startInstance(ctx); err != nil {
		return err
	}
	total, err := treeSize(ctx, d.sample.volume(), nil)
	if err != nil {
		return err
	}
	return d.step("instance", "%s runs (process %d): %s of files, and a record appended and fsynced every %v",
		demoInstance, d.instance.Process.Pid, size(total), samplePause)
}

// startInstance runs the sample instance, and returns once it wrote some records.
func (d *demo) startInstance(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	before, err := readRecords(filepath.Join(d.sample.volume(), sampleRecords))
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program, "sample-instance", "run", d.sample.dir)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	d.instance = cmd
	for {
		// Errors mean that it has not come that far yet; ctx bounds the wait.
		if n, err := d.sample.durable(); err == nil && n >= before+demoRecords {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the sample instance writes nothing: %w: %s", context.Cause(ctx), stderr.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stopInstance ends the sample instance, if it runs, and takes its exit status.
func (d *demo) stopInstance() error {
	if d.instance == nil {
		return nil
	}
	err := d.instance.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_ = d.instance.Wait() // it must end by a kill
	d.instance = nil
	return err
}

// start starts the control plane and the agent.
func (d *demo) start(ctx context.Context) (err error) {
	if d.plane, err = newPlane(d.certificate, d.reportToken); err != nil {
		return err
	}
	if d.agent, err = d.startAgent(ctx); err != nil {
		return err
	}
	return d.step("agent", "serves the control plane's API at %s, over TLS", d.agent.url)
}

// first is the whole job.
func (d *demo) first(ctx context.Context) error {
	if err := d.backup(ctx, "demo-request-1"); err != nil {
		return err
	}
	return d.bringBack(ctx, "restored-1")
}

// second is the same after a small change, which shows what deduplication saves.
func (d *demo) second(ctx context.Context) error {
	if err := changeVolume(d.sample.volume()); err != nil {
		return err
	}
	if err := d.startInstance(ctx); err != nil {
		return err
	}
	if err := d.step("change", "the instance runs again; 8 pages of its database and one file changed"); err != nil {
		return err
	}
	if err := d.backup(ctx, "demo-request-2"); err != nil {
		return err
	}
	return d.bringBack(ctx, "restored-2")
}
