package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

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
