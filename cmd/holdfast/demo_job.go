package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"holdfast/agent/report"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// answer is the agent's answer to a command.
type answer struct {
	Code string `json:"error_code"`
	Msg  string `json:"error_msg"`
	Data struct {
		Task string `json:"task_id"`
	} `json:"data"`
}

// command sends the backup command as the control plane does, and returns the task.
func (d *demo) command(ctx context.Context, request string) (string, error) {
	body, err := json.Marshal(map[string][]string{"instance_ids": {demoInstance}})
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.agent.url+"/v1/instances/backup", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Auth-Token", d.token)
	r.Header.Set("X-Request-Id", request)
	client := d.certificate.client()
	defer client.CloseIdleConnections()
	response, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxReport)).Decode(&a); err != nil {
		return "", fmt.Errorf("answer of the agent: %w", err)
	}
	if response.StatusCode != http.StatusOK || a.Code != "0" {
		return "", fmt.Errorf("the agent refused the command: %d %s %s", response.StatusCode, a.Code, a.Msg)
	}
	return a.Data.Task, nil
}

// completed is the part of a report of a complete backup that the demo reads.
type completed struct {
	Task          string          `json:"task_id"`
	Backup        string          `json:"backup_id"`
	Files         uint64          `json:"files"`
	Bytes         uint64          `json:"bytes"`
	Read          uint64          `json:"bytes_read"`
	New           uint64          `json:"bytes_new"`
	Sent          uint64          `json:"bytes_sent"`
	FreezeSeconds float64         `json:"freeze_seconds"`
	Receipt       json.RawMessage `json:"receipt"`
}

// backup sends a command and goes with the job to its end, as a control plane does.
func (d *demo) backup(ctx context.Context, request string) error {
	start := time.Now()
	task, err := d.command(ctx, request)
	if err != nil {
		return err
	}
	if again, err := d.command(ctx, request); err != nil || again != task {
		return errors.Join(err, fmt.Errorf("the same command sent twice gave task %s and task %s", task, again))
	}
	if err := d.step("command", "POST /v1/instances/backup → task %s (sent twice, still one task)", task); err != nil {
		return err
	}
	told, err := d.plane.next(ctx, "holdfast.backup.completed")
	if err != nil {
		return err
	}
	var c completed
	if err := json.Unmarshal(told.Data, &c); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if c.Task != task {
		return fmt.Errorf("report is about task %s, not %s", c.Task, task)
	}
	ratio := ""
	if c.New < c.Bytes {
		ratio = fmt.Sprintf(" (%.1f%% known already)", 100*float64(c.Bytes-c.New)/float64(c.Bytes))
	}
	if err := d.step("backup", "%s: %s in %s, read %s, %s new%s, sent %s; %s after the command", c.Backup,
		size(c.Bytes), count(c.Files, "file", "files"), size(c.Read), size(c.New), ratio, size(c.Sent), seconds(time.Since(start))); err != nil {
		return err
	}
	if err := d.checkReceipt(ctx, c); err != nil {
		return err
	}
	// The report has not been acknowledged, so the instance must be held, and must not be down.
	if err := d.stays("frozen", demoHold); err != nil {
		return err
	}
	if err := d.step("held", "instance still frozen after %v without acknowledgement", demoHold); err != nil {
		return err
	}
	told.answer <- struct{}{}
	acknowledged := time.Now()
	released, err := d.plane.next(ctx, "holdfast.instance.released")
	if err != nil {
		return err
	}
	released.answer <- struct{}{}
	if err := d.stays("stopped", 0); err != nil {
		return err
	}
	// takes the status of the process that the agent killed
	if err := d.stopInstance(); err != nil {
		return err
	}
	return d.step("release", "acknowledged, then powered down %s later; frozen for %.2f s until the report",
		seconds(time.Since(acknowledged)), c.FreezeSeconds)
}

// checkReceipt verifies the signature of a report's
// receipt, and compares its statements with the store.
func (d *demo) checkReceipt(ctx context.Context, c completed) error {
	file, err := d.agent.PublicKey()
	if err != nil {
		return err
	}
	key, err := report.ParsePublic(file)
	if err != nil {
		return err
	}
	statement, err := report.Verify(ctx, c.Receipt, key)
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	v, err := vault.Open(ctx, d.store, demoTenant, d.nameKey, d.identity)
	if err != nil {
		return err
	}
	defer v.Close()
	manifest, err := v.Manifest(ctx, vault.BackupRef{Instance: demoInstance, ID: c.Backup})
	if err != nil {
		return err
	}
	if statement.Backup != c.Backup || statement.Instance != demoInstance ||
		statement.Tenant != demoTenant || statement.ManifestSHA256 != manifest.Digest {
		return fmt.Errorf("receipt is about another backup than the report: %+v", statement)
	}
	return d.step("receipt", "signed by this host, and its digest %s… is the stored manifest's; verified: %s",
		statement.ManifestSHA256[:16], statement.Verification)
}

// stays checks that the instance is in that state now and for the given time.
func (d *demo) stays(want string, hold time.Duration) error {
	for end := time.Now().Add(hold); ; time.Sleep(5 * time.Millisecond) {
		if got := d.sample.state(); got != want {
			return fmt.Errorf("the instance is %s, not %s", got, want)
		}
		if !time.Now().Before(end) {
			return nil
		}
	}
}

// bringBack restores the newest backup beside the volume and compares the two.
func (d *demo) bringBack(ctx context.Context, to string) error {
	start := time.Now()
	v, err := vault.Open(ctx, d.store, demoTenant, d.nameKey, d.identity)
	if err != nil {
		return err
	}
	defer v.Close()
	ref, err := v.Newest(ctx, demoInstance)
	if err != nil {
		return err
	}
	result, err := restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Dest: d.in(to)})
	if err != nil {
		return err
	}
	if n := len(result.Warnings); n > 0 {
		return fmt.Errorf("the restore is not exact: %s", sentence(result.Warnings[0].String()))
	}
	if err := d.step("restore", "%s in %s; %s", size(result.Bytes), count(result.Files, "file", "files"),
		seconds(time.Since(start))); err != nil {
		return err
	}
	entries, err := difference(ctx, d.sample.volume(), d.in(to))
	if err != nil {
		return err
	}
	durable, err := d.sample.durable()
	if err != nil {
		return err
	}
	records, err := readRecords(d.in(to, sampleRecords))
	if err != nil {
		return err
	}
	if records < durable {
		return fmt.Errorf("the instance made %d records durable, the backup has %d", durable, records)
	}
	return d.step("compare", "all %d records are there; %d entries equal in content and metadata", records, entries)
}
