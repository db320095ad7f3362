package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"holdfast/agent"
	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/agent/engine"
	"holdfast/internal/plain"
	"holdfast/internal/vault"
)

// errNoConfig is a configuration file that is not there or can't be read.
var errNoConfig = errors.New("no configuration")

// load reads the configuration and checks the files that it names, and their content.
// Where only the files have faults, it returns the configuration beside the error.
func load(path string, more ...func(*config.Config) config.Content) (*config.Config, error) {
	cfg, _, err := loadBytes(path, more...)
	return cfg, err
}

// loadBytes is load, with the content of the file.
func loadBytes(path string, more ...func(*config.Config) config.Content) (*config.Config, []byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: read configuration: %w", errNoConfig, err)
	}
	cfg, err := config.Parse(data, path)
	if err != nil {
		return nil, data, err
	}
	contents := contentsOf(cfg)
	for _, content := range more {
		contents = append(contents, content(cfg))
	}
	return cfg, data, cfg.CheckFiles(contents...)
}

// contentsOf are the checks of values that only the packages can read which use
// them. Their findings would end the agent at its start, or fail its first job.
func contentsOf(cfg *config.Config) []config.Content {
	contents := []config.Content{{Path: "key_file", Check: func() error {
		_, err := vault.LoadIdentity(cfg.KeyFile)
		return err
	}}}
	for i, r := range cfg.Recipients {
		contents = append(contents, config.Content{
			Path: fmt.Sprintf("recipients[%d]", i), Check: func() error { return vault.ParseRecipient(r) },
		})
	}
	if cfg.TokensFile != "" {
		contents = append(contents, config.Content{Path: "tokens_file", Check: func() error {
			_, err := auth.NewStatic(cfg.TokensFile, time.Now)
			return err
		}})
	}
	if cfg.IAM.AccountFile != "" {
		contents = append(contents, config.Content{Path: "iam.account_file", Check: func() error {
			_, err := auth.LoadAccount(cfg.IAM.AccountFile)
			return err
		}})
	}
	return contents
}

// certificateInTime checks that callers take the certificate now. It keeps no agent from
// starting: there are jobs to finish, and a renewed certificate is served without a restart.
func certificateInTime(cfg *config.Config) config.Content {
	return config.Content{Path: "tls.cert_file", Check: func() error {
		if cfg.Listen == "" {
			return nil
		}
		pair, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
		if err != nil {
			return nil //nolint:nilerror // said of tls.key_file, with its place
		}
		switch now := time.Now(); {
		case now.After(pair.Leaf.NotAfter):
			return fmt.Errorf("the certificate %s has expired, %s", cfg.TLS.CertFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(pair.Leaf.NotBefore):
			return fmt.Errorf("the certificate %s is not valid before %s", cfg.TLS.CertFile, pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		return nil
	}}
}

func checkConfig(path string, stdout io.Writer) error {
	cfg, err := load(path, certificateInTime)
	// the places of volumes depend on the mounts, so the
	// agent looks again, and goes on with the other instances
	if cfg != nil {
		err = errors.Join(err, cfg.CheckPlaces())
	}
	if err != nil {
		return err
	}
	for _, note := range cfg.Notes() {
		if _, err := fmt.Fprintf(stdout, "note: %s\n", note); err != nil {
			return err
		}
	}
	for _, warning := range agent.Strays(cfg) {
		if _, err := fmt.Fprintln(stdout, "warning:", warning); err != nil {
			return err
		}
	}
	if _, err = fmt.Fprintf(stdout, "%s is valid: host %s, %d instances\n", path, cfg.HostID, len(cfg.Instances)); err != nil {
		return err
	}
	if err := adviseStop(cfg, unitStopTime(), stdout); err != nil {
		return err
	}
	return printVolumes(cfg, stdout)
}

// printVolumes tells how each volume would be read now, and the consequences for its instance.
func printVolumes(cfg *config.Config, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		if _, err := fmt.Fprintln(stdout, "how volumes are read is told for this user; the daemon, as root, can do more"); err != nil {
			return err
		}
	}
	for _, v := range engine.LookAtVolumes(context.Background(), cfg) {
		warning := ""
		if v.Warn {
			warning = "WARNING: "
		}
		if _, err := fmt.Fprintf(stdout, "instance %s, volume %s, provider %s: %s%s\n", v.Instance, v.Volume, cmp.Or(v.Provider, "unknown"), warning, v.Means); err != nil {
			return err
		}
	}
	return nil
}

// newLogger makes the log that the configuration asks for.
func newLogger(cfg *config.Config, stderr io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, fmt.Errorf("log level %q: %w", cfg.Log.Level, err)
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(plainLines{stderr}, options)), nil
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

// plainLines writes lines of JSON without characters
// that act on a terminal; lines of text have none.
type plainLines struct{ w io.Writer }

func (l plainLines) Write(line []byte) (int, error) {
	if _, err := l.w.Write(plain.JSON(line)); err != nil {
		return 0, err
	}
	return len(line), nil
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
