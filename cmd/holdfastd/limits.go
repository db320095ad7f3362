package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"holdfast/agent/config"
)

// besideBuffers is the most memory that the daemon takes beside limits.memory,
// bytes: the journal, indexes of vaults, callers, the program itself.
const besideBuffers config.Size = 512 << 20

// limitMemory has the garbage collector keep the daemon below the configured memory,
// unless GOMEMLIMIT says another figure, and warns where its control group gives it less.
func limitMemory(cfg *config.Config, log *slog.Logger) {
	limit := cfg.Limits.Memory + besideBuffers
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit))
	}
	if least, setting := groupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); least > 0 && least < limit {
		log.Warn("the service may take less memory than the configuration lets the daemon take; lower limits.memory, or raise the unit's limit (systemctl edit holdfast)",
			"limits.memory", cfg.Limits.Memory.String(), "needs", limit.String(), setting, least.String())
	}
}

// groupLimit is the least limit of memory that the control group of the
// process has, by MemoryHigh= or MemoryMax= of systemd; 0 for none.
func groupLimit(of, root string) (least config.Size, setting string) {
	data, err := os.ReadFile(of)
	if err != nil {
		return 0, ""
	}
	for line := range strings.Lines(string(data)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::") // version 2
		if !ok {
			continue
		}
		for name, directive := range map[string]string{"memory.high": "MemoryHigh", "memory.max": "MemoryMax"} {
			text, err := os.ReadFile(filepath.Join(root, filepath.Clean("/"+group), name))
			if err != nil {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && n > 0 && (least == 0 || config.Size(n) < least) { // "max" is no number
				least, setting = config.Size(n), directive
			}
		}
	}
	return least, setting
}
