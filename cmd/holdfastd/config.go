package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"holdfast/agent/config"
)

// errNoConfig is a configuration file that is not there or can't be read.
var errNoConfig = errors.New("no configuration")

// load reads the configuration and checks the files that it names.
func load(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return nil, fmt.Errorf("%w: %w", errNoConfig, err)
	}
	if err != nil {
		return nil, err
	}
	return cfg, cfg.CheckFiles()
}

func checkConfig(path string, stdout io.Writer) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s is valid: host %s, %d instances\n", path, cfg.HostID, len(cfg.Instances))
	return err
}

// newLogger makes the log that the configuration asks for.
func newLogger(cfg *config.Config, stderr io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, fmt.Errorf("log level %q: %w", cfg.Log.Level, err)
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(stderr, options)), nil
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		// systemd's journal writes the time of each line itself.
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(stderr, options)), nil
}

// version is set by the linker for a release: -ldflags "-X main.version=1.2.3".
var version string

// buildVersion tells which build this is.
func buildVersion() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok {
		v = cmp.Or(v, info.Main.Version)
	}
	return fmt.Sprintf("%s %s %s/%s", cmp.Or(v, "(devel)"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
