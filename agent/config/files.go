package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Content checks one value, or the content of the file that it
// names, in a form that this package does not know: keys and tokens.
type Content struct {
	Path  string // of the value, such as key_file
	Check func() error
}

// CheckFiles looks at the files and programs that c names: that they are there and can be read,
// that nobody but owner and group can read a secret, that certificate and key belong together,
// and that authorities are certificates; then it asks contents, but those whose value has a
// fault already. It does not look at volumes, which may be mounted later, and it contacts
// nobody. The error is *Faults. A file may change afterwards; whoever opens it checks again.
func (c *Config) CheckFiles(contents ...Content) error {
	f := &faults{src: c.src, seen: map[string]bool{}}
	secretFile(f, "store.name_key_file", c.Store.NameKeyFile)
	secretFile(f, "key_file", c.KeyFile)
	// the agent makes one at its first start
	if _, err := os.Lstat(c.SigningKeyFile); !errors.Is(err, fs.ErrNotExist) {
		secretFile(f, "signing_key_file", c.SigningKeyFile)
	}
	secretFile(f, "tokens_file", c.TokensFile)
	secretFile(f, "iam.account_file", c.IAM.AccountFile)
	certificates(f, "iam.ca_file", c.IAM.CAFile)
	secretFile(f, "report.token_file", c.Report.TokenFile)
	certificates(f, "report.ca_file", c.Report.CAFile)
	if c.Listen != "" {
		certificates(f, "tls.client_ca_file", c.TLS.ClientCAFile)
		if regular(f, "tls.client_crl_file", c.TLS.ClientCRLFile) != nil {
			readable(f, "tls.client_crl_file", c.TLS.ClientCRLFile)
		}
		certificates(f, "tls.cert_file", c.TLS.CertFile)
		secretFile(f, "tls.key_file", c.TLS.KeyFile)
		if !f.seen["tls.cert_file"] && !f.seen["tls.key_file"] {
			if _, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile); err != nil {
				f.add("tls.key_file", "does not go with tls.cert_file: %v", err)
			}
		}
	}
	for i, in := range c.Instances {
		e := in.Runtime.Exec
		if e == nil {
			continue
		}
		path := fmt.Sprintf("instances[%d].runtime.exec.", i)
		program(f, path+"state[0]", e.State)
		program(f, path+"freeze[0]", e.Freeze)
		program(f, path+"thaw[0]", e.Thaw)
		program(f, path+"power_down[0]", e.PowerDown)
		program(f, path+"start[0]", e.Start)
	}
	for _, content := range contents {
		if f.seen[content.Path] {
			continue
		}
		if err := content.Check(); err != nil {
			// one line a fault
			f.add(content.Path, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return f.err()
}

// regular reports a file that can't be used. It gives nil for "" and where it reported.
func regular(f *faults, path, name string) fs.FileInfo {
	if name == "" {
		return nil
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.add(path, "there is no file %s", quote(name))
	case err != nil:
		f.add(path, "%v", err)
	case !info.Mode().IsRegular():
		f.add(path, "%s is not a regular file", quote(name))
	default:
		return info
	}
	return nil
}

// secretFile reports a secret that others than owner and group can
// get at, itself or by replacing it.
func secretFile(f *faults, path, name string) {
	info := regular(f, path, name)
	if info == nil {
		return
	}
	if perm := info.Mode().Perm(); perm&0o007 != 0 {
		f.add(path, "%s is a secret, but its mode %04o gives it to everybody; chmod o= %s", quote(name), perm, name)
		return
	}
	if dir, err := os.Stat(filepath.Dir(name)); err == nil && dir.Mode().Perm()&0o002 != 0 && dir.Mode()&fs.ModeSticky == 0 {
		f.add(path, "the folder of %s may be written by everybody (mode %04o)", quote(name), dir.Mode().Perm())
		return
	}
	readable(f, path, name)
}

func readable(f *faults, path, name string) []byte {
	data, err := os.ReadFile(name)
	switch {
	case err != nil:
		f.add(path, "%v", err)
	case len(data) == 0:
		f.add(path, "%s is empty", quote(name))
	default:
		return data
	}
	return nil
}

func certificates(f *faults, path, name string) {
	if regular(f, path, name) == nil {
		return
	}
	if data := readable(f, path, name); data != nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		f.add(path, "%s holds no certificate in PEM form", quote(name))
	}
}

func program(f *faults, path string, argv []string) {
	if len(argv) == 0 {
		return
	}
	info := regular(f, path, argv[0])
	switch {
	case info == nil:
	case info.Mode().Perm()&0o111 == 0:
		f.add(path, "%s is not executable", quote(argv[0]))
	default:
		checkScript(f, path, argv[0])
	}
}
