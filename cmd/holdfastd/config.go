package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"holdfast/agent/auth"
	"holdfast/agent/config"
	"holdfast/internal/plain"
	"holdfast/internal/vault"
)

// errNoConfig is a configuration file that is not there or can't be read.
var errNoConfig = errors.New("no configuration")

// load reads the configuration and checks the files that it names, and what they hold.
func load(path string, more ...func(*config.Config) config.Content) (*config.Config, error) {
	cfg, err := config.Load(path)
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return nil, fmt.Errorf("%w: %w", errNoConfig, err)
	}
	if err != nil {
		return nil, err
	}
	contents := contentsOf(cfg)
	for _, content := range more {
		contents = append(contents, content(cfg))
	}
	return cfg, cfg.CheckFiles(contents...)
}

// contentsOf are the checks of what only the packages that use it can read. What they find would end the
// agent at its start, or fail its first job.
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

// certificateInTime checks that callers take the certificate now. It keeps no agent from starting: there
// are jobs to finish, and a renewed certificate is served without a restart.
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
	if err != nil {
		return err
	}
	for _, note := range cfg.Notes() {
		if _, err := fmt.Fprintf(stdout, "note: %s\n", note); err != nil {
			return err
		}
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

// plainLines writes lines of JSON without what acts on a terminal; those of text have none.
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
