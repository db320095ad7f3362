package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"holdfast/agent"
	"holdfast/agent/config"
	"holdfast/internal/durable"
)

// A configuration with faults ends the daemon with exitConfig, and systemd does not
// start it again. Where an earlier life has left instances held, that would leave them
// so until a person comes. Then the daemon recovers first: by the file where only
// files that it names have faults, else by the last configuration that it ran with.

// lastConfiguration is the name, in the state folder, of the last
// configuration that the daemon ran with.
const lastConfiguration = "configuration.yaml"

// keepConfiguration writes the configuration into the state folder
// for a start that finds another one with faults.
func keepConfiguration(cfg *config.Config, data []byte) error {
	if err := durable.WriteFile(filepath.Join(cfg.StateDir, lastConfiguration), data, 0o600); err != nil {
		return fmt.Errorf("keep a copy of the configuration for a start that finds it broken: %w", err)
	}
	return nil
}

// recovery returns the configuration by which this start recovers, and the instances that
// an earlier life has left unfinished; nil where there are none. cfg is the configuration
// of which only files that it names have faults, nil where it could not be used at all.
func recovery(path string, cfg *config.Config) (*config.Config, []string) {
	if cfg != nil {
		if left, _ := agent.Unfinished(cfg.StateDir); len(left) > 0 {
			return cfg, left
		}
		return nil, nil
	}
	for _, dir := range stateFolders(path) {
		data, err := os.ReadFile(filepath.Join(dir, lastConfiguration))
		if err != nil {
			continue
		}
		last, err := config.Parse(data, filepath.Join(dir, lastConfiguration))
		if err != nil || last.StateDir != dir {
			continue
		}
		if left, _ := agent.Unfinished(dir); len(left) > 0 {
			return last, left
		}
	}
	return nil, nil
}

// stateDirLine finds the state folder in a file that can't be parsed.
var stateDirLine = regexp.MustCompile(`(?m)(?:^|[{,]\s*)["']?state_dir["']?\s*:\s*["']?(/[^\s"',#}]*)`)

// stateFolders lists where the state folder may be.
func stateFolders(path string) []string {
	var dirs []string
	if data, err := os.ReadFile(path); err == nil {
		for _, m := range stateDirLine.FindAllStringSubmatch(string(data[:min(len(data), config.MaxFileBytes)]), -1) {
			dirs = append(dirs, m[1])
		}
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("STATE_DIRECTORY"))...)
	dirs = append(dirs, config.DefaultStateDir)
	for i, d := range dirs {
		dirs[i] = filepath.Clean(d)
	}
	return distinct(dirs)
}

// distinct sorts a list and leaves out what stands in it again.
func distinct(list []string) (once []string) {
	sort.Strings(list)
	for i, s := range list {
		if i == 0 || s != list[i-1] {
			once = append(once, s)
		}
	}
	return once
}

// errHeld is the answer of the command held when there are such instances.
var errHeld = errors.New("instances are held")

// held lists the instances that the notes in the state folder say
// are held, one a line. It is for scripts that are about to take the
// agent away, and looks at nothing that a running agent has open.
func held(path string, stdout io.Writer) error {
	var found []string
	for _, dir := range stateFolders(path) {
		list, err := agent.Held(dir)
		if err != nil {
			return err
		}
		found = append(found, list...)
	}
	found = distinct(found)
	if len(found) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(stdout, strings.Join(found, "\n")); err != nil {
		return err
	}
	return errHeld
}
