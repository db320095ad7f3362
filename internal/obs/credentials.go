package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// metadataPatience is the time limit of all questions to the metadata service: it
	// answers in milliseconds where there is one, and elsewhere nobody should wait for it.
	metadataPatience = 2 * time.Second
	metadataDial     = 500 * time.Millisecond
	metadataAddress  = "http://169.254.169.254"
	// securityKeyPath is the path of the temporary keys of a host in the cloud of OBS.
	securityKeyPath = "/openstack/latest/securitykey"
	// systemdCredential is the credential of the service (LoadCredential= of
	// its unit) that has the keys, in the form of a shared credentials file.
	systemdCredential = "store-credentials"
	// securityKeyLimit is more than the document has, in bytes.
	securityKeyLimit = 64 << 10
)

// credentialsError says that no source has credentials, and keeps the words of each
// source's error: their time-outs are not the caller's.
type credentialsError struct {
	said []string
	had  bool // somebody had some before
}

func (e *credentialsError) Error() string {
	return "none in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or OBS_ACCESS_KEY_ID " +
		"and OBS_SECRET_ACCESS_KEY), nor elsewhere (" + strings.Join(e.said, "; ") + ")"
}

// source is one place where credentials may be.
type source interface {
	credentials.Provider
	// changed reports, without a request, whether the source may now have other
	// credentials than it gave last.
	changed() bool
}

// constant is a source that does not change while it is used.
type constant struct{ credentials.Provider }

func (constant) changed() bool { return false }

// provider asks several sources in turn. Unlike the client's own chain it fails when all do:
// that one goes on without a signature, and the operator reads "access denied" instead of "no
// credentials". Temporary keys are renewed when a fifth of their life is left, and stay in use
// until their end while the service that renews them is away. The client calls it under a lock.
type provider struct {
	sources []source
	now     func() time.Time

	current source // of value; nil before the first
	value   credentials.Value
	renewAt time.Time // zero for keys without an end
}

// renewPause is how long to wait at most after a renewal that failed.
const renewPause = 30 * time.Second

func (p *provider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	ctx, cancel := context.WithTimeout(ctx, metadataPatience)
	defer cancel()
	var said []string
	for _, s := range p.sources {
		v, err := s.RetrieveWithCredContext(&credentials.CredContext{Client: metadataClient(), Context: ctx})
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			p.current, p.value, p.renewAt = s, v, time.Time{}
			if !v.Expiration.IsZero() {
				p.renewAt = v.Expiration.Add(-v.Expiration.Sub(p.now()) / 5)
			}
			return v, nil
		}
		if exposed := (*exposedError)(nil); errors.As(err, &exposed) {
			// and not the keys of somebody else, from further down
			return credentials.Value{}, exposed
		}
		if err != nil {
			said = append(said, err.Error())
		}
	}
	if left := p.value.Expiration.Sub(p.now()); p.current != nil && left > 0 {
		p.renewAt = p.now().Add(min(left/4, renewPause))
		return p.value, nil
	}
	return credentials.Value{}, &credentialsError{said, p.current != nil}
}

func (p *provider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

func (p *provider) IsExpired() bool {
	return p.current == nil || p.current.changed() || !p.renewAt.IsZero() && !p.now().Before(p.renewAt)
}

// exposedError is a file of keys that everybody on this host may read or change.
type exposedError struct {
	name string
	mode os.FileMode
}

func (e *exposedError) Error() string {
	return fmt.Sprintf("%s holds keys, but its mode %04o gives them to everybody; chmod o= %[1]s", e.name, e.mode)
}

// fileSource is a shared credentials file, which is read again when somebody writes it anew.
type fileSource struct {
	credentials.FileAWSCredentials
	at   time.Time // of the file that was read
	size int64
}

func newFileSource(name, profile string) *fileSource {
	return &fileSource{FileAWSCredentials: credentials.FileAWSCredentials{Filename: name, Profile: profile}}
}

func (f *fileSource) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	// before it is read: a change in between is seen later
	if fi, err := os.Stat(f.Filename); err == nil {
		f.at, f.size = fi.ModTime(), fi.Size()
		if perm := fi.Mode().Perm(); perm&0o007 != 0 {
			return credentials.Value{}, &exposedError{f.Filename, perm}
		}
	}
	return f.FileAWSCredentials.RetrieveWithCredContext(cc)
}

// changed is false while the file is absent: a program that replaces the file may remove it first.
func (f *fileSource) changed() bool {
	fi, err := os.Stat(f.Filename)
	return err == nil && (!fi.ModTime().Equal(f.at) || fi.Size() != f.size)
}

// findCredentials names the sources in their order and asks them
// once, so that Open can tell that there are none.
func findCredentials(ctx context.Context, d dialect, getenv func(string) string) (*credentials.Credentials, error) {
	p := &provider{now: time.Now}
	names := [][3]string{
		{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
		{"OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY", "OBS_SECURITY_TOKEN"},
	}
	if d.scheme == dialectOBS.scheme {
		names[0], names[1] = names[1], names[0]
	}
	for _, n := range names {
		id, secret := getenv(n[0]), getenv(n[1])
		if (id == "") != (secret == "") {
			return nil, fmt.Errorf("%w: of %s and %s only one is set", ErrNoKeys, n[0], n[1])
		}
		if id != "" {
			p.sources = append(p.sources, constant{&credentials.Static{Value: credentials.Value{
				AccessKeyID: id, SecretAccessKey: secret, SessionToken: getenv(n[2]), SignerType: credentials.SignatureV4,
			}}})
		}
	}
	profile := getenv("AWS_PROFILE")
	if profile == "" {
		profile = "default"
	}
	if dir := getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		p.sources = append(p.sources, newFileSource(filepath.Join(dir, systemdCredential), profile))
	}
	file := getenv("AWS_SHARED_CREDENTIALS_FILE")
	if home := getenv("HOME"); file == "" && home != "" {
		file = filepath.Join(home, ".aws", "credentials")
	}
	if file != "" {
		p.sources = append(p.sources, newFileSource(file, profile))
	}
	if getenv("AWS_EC2_METADATA_DISABLED") != "true" {
		address := getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
		if d.scheme == dialectOBS.scheme {
			own := getenv("OBS_METADATA_SERVICE_ENDPOINT")
			if own == "" {
				own = address
			}
			p.sources = append(p.sources, constant{&securityKey{address: own}})
		}
		p.sources = append(p.sources, constant{&credentials.IAM{Endpoint: address, Region: getenv("AWS_REGION")}})
	}
	c := credentials.New(p)
	if _, err := c.GetWithContext(&credentials.CredContext{Context: ctx}); err != nil {
		if ctx.Err() != nil {
			return nil, ended(ctx, "ask for", "credentials")
		}
		return nil, fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	return c, nil
}

// metadataClient asks the metadata service: directly, briefly, and without a connection that stays.
func metadataClient() *http.Client {
	return &http.Client{
		Timeout: metadataPatience,
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: metadataDial}).DialContext,
			DisableKeepAlives: true,
		},
	}
}

// securityKey gets temporary keys from the metadata service of the cloud of OBS.
type securityKey struct{ address string }

func (s *securityKey) IsExpired() bool { return true } // provider knows when

func (s *securityKey) Retrieve() (credentials.Value, error) { return s.RetrieveWithCredContext(nil) }

func (s *securityKey) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx, client := context.Background(), metadataClient()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	address := s.address
	if address == "" {
		address = metadataAddress
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+securityKeyPath, nil)
	if err != nil {
		return credentials.Value{}, err
	}
	res, err := client.Do(req)
	if err != nil {
		return credentials.Value{}, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return credentials.Value{}, fmt.Errorf("%s: %s", req.URL, res.Status)
	}
	var doc struct {
		Credential struct {
			Access        string    `json:"access"`
			Secret        string    `json:"secret"`
			SecurityToken string    `json:"securitytoken"`
			ExpiresAt     time.Time `json:"expires_at"`
		} `json:"credential"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, securityKeyLimit)).Decode(&doc); err != nil {
		// Not the decoder's words: they may quote a secret.
		return credentials.Value{}, fmt.Errorf("%s: the answer is not what it should be", req.URL)
	}
	c := doc.Credential
	return credentials.Value{
		AccessKeyID: c.Access, SecretAccessKey: c.Secret, SessionToken: c.SecurityToken,
		Expiration: c.ExpiresAt, SignerType: credentials.SignatureV4,
	}, nil
}
