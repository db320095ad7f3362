package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/pattern"
)

// maxPatternFile bounds a file of patterns, bytes: one given by mistake may be a disk image.
const maxPatternFile = 1 << 20

// excludes returns the patterns of --exclude and of the files of --exclude-from.
func excludes(cmd *cobra.Command, globs, files []string) ([]string, error) {
	patterns := slices.Clone(globs)
	for _, glob := range globs {
		if err := pattern.Check(glob); err != nil {
			return nil, &usageError{msg: "--exclude: " + err.Error(), command: cmd.CommandPath()}
		}
	}
	for _, file := range files {
		more, err := patternFile(file)
		if err != nil {
			return nil, &configError{fmt.Errorf("--exclude-from: %w", err), "the file has one pattern on each line, as --exclude takes it; lines that begin with # do not count"}
		}
		patterns = append(patterns, more...)
	}
	if _, err := pattern.Compile(patterns); err != nil {
		return nil, &usageError{msg: "--exclude: " + err.Error(), command: cmd.CommandPath()}
	}
	return patterns, nil
}

func patternFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxPatternFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPatternFile {
		return nil, fmt.Errorf("%s is larger than %s", name(path), size(int64(maxPatternFile)))
	}
	return pattern.Lines(data, path)
}

// noteHostPaths tells of patterns that are written as paths of this
// host: they match nothing, as patterns are of paths in the volume.
func (a *app) noteHostPaths(patterns []string, volume string) {
	for _, p := range patterns {
		if below, ok := strings.CutPrefix(p, volume+"/"); ok && below != "" {
			a.say("note: --exclude %s is a path below %s/%s; to leave out what lies at that path of this host, write /%s",
				name(p), name(volume), strings.TrimPrefix(name(p), "/"), name(below))
		}
	}
}
