package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"holdfast/agent/config"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "")
	var log bytes.Buffer
	limitMemory(&config.Config{Limits: config.Limits{Memory: 1 << 30}}, slog.New(slog.NewTextHandler(&log, nil)))
	if got := debug.SetMemoryLimit(-1); got != 1<<30+512<<20 {
		t.Errorf("the limit is %d", got)
	}
	t.Setenv("GOMEMLIMIT", "100MiB")
	limitMemory(&config.Config{Limits: config.Limits{Memory: 2 << 30}}, slog.New(slog.NewTextHandler(&log, nil)))
	if got := debug.SetMemoryLimit(-1); got != 1<<30+512<<20 {
		t.Errorf("GOMEMLIMIT is set, and the limit became %d", got)
	}
}

func TestGroupLimit(t *testing.T) {
	dir := t.TempDir()
	group := filepath.Join(dir, "system.slice/holdfast.service")
	if err := os.MkdirAll(group, 0o700); err != nil {
		t.Fatal(err)
	}
	of := filepath.Join(dir, "cgroup")
	if err := os.WriteFile(of, []byte("1:name=systemd:/\n0::/system.slice/holdfast.service\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		high, max string
		want      config.Size
		setting   string
	}{
		{"max", "max", 0, ""},
		{"1073741824", "2147483648", 1 << 30, "MemoryHigh"},
		{"max", "2147483648", 2 << 30, "MemoryMax"},
		{"", "", 0, ""},
	} {
		for name, text := range map[string]string{"memory.high": c.high, "memory.max": c.max} {
			if err := os.WriteFile(filepath.Join(group, name), []byte(strings.TrimSpace(text)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, setting := groupLimit(of, dir); got != c.want || setting != c.setting {
			t.Errorf("%+v: %v by %s", c, got, setting)
		}
	}
}
