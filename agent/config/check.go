package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/pattern"
)

// Forms of names. Ids go into object names, snapshot names and
// paths, and so begin with a letter or digit.
var (
	instancePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)
	hostPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	tenantPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$`)
	recipientPattern  = regexp.MustCompile(`^age1[a-z0-9]{20,}$`)
	credentialPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	containerPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// Bounds of the limits.
const (
	// minMemory holds one pack of 16 MiB being filled, one being sent, and the buffers around them.
	minMemory      Size = 64 << 20
	maxJobs             = 256
	maxQueue            = 100_000
	maxRounds           = 100
	maxRequests         = 100_000
	minConnections      = 16 // some callers, an operator's browser
	maxConnections      = 16_384
	// maxVerifiedWithin keeps a look at the store before a power-down
	// from being switched off by a long time.
	maxVerifiedWithin = time.Hour
	// minAudit keeps an attacker from rotating away the lines of a few hundred commands.
	minAudit Size = 1 << 20
	maxAudit      = 10_000
	// maxSocketPath is the size of sun_path in Linux less the final zero byte.
	maxSocketPath = 107
)

// check adds everything that is wrong with values and between them.
func (c *Config) check(f *faults) {
	if !hostPattern.MatchString(c.HostID) {
		f.add("host_id", "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got %s", quote(c.HostID))
	}
	absolute(f, "state_dir", &c.StateDir, true)
	absolute(f, "socket", &c.Socket, true)
	if len(c.Socket) > maxSocketPath {
		f.add("socket", "is longer than the %d bytes that a socket's path may have", maxSocketPath)
	}
	if c.Listen != "" {
		checkListen(f, "listen", c.Listen, false)
	}
	if c.MetricsListen != "" {
		checkListen(f, "metrics_listen", c.MetricsListen, true)
	}
	absolute(f, "tls.cert_file", &c.TLS.CertFile, c.Listen != "")
	secret(f, "tls.key_file", &c.TLS.KeyFile, c.Listen != "")
	absolute(f, "tls.client_ca_file", &c.TLS.ClientCAFile, false)
	absolute(f, "tls.client_crl_file", &c.TLS.ClientCRLFile, false)
	checkClients(f, c.TLS)
	secret(f, "tokens_file", &c.TokensFile, c.Listen != "" && c.IAM.URL == "" && len(c.TLS.Clients) == 0)
	checkIAM(f, &c.IAM)

	checkStore(f, "store.url", c.Store.URL)
	secret(f, "store.name_key_file", &c.Store.NameKeyFile, false)
	secret(f, "key_file", &c.KeyFile, true)
	if c.SigningKeyFile == "" {
		// Beside the journal: the agent makes it at its first start,
		// and a sandboxed one can't write to /etc.
		c.SigningKeyFile = filepath.Join(c.StateDir, DefaultSigningKey)
	}
	absolute(f, "signing_key_file", &c.SigningKeyFile, false)
	if c.Audit.File == "" {
		c.Audit.File = filepath.Join(c.StateDir, DefaultAudit)
	}
	absolute(f, "audit.file", &c.Audit.File, false)
	if c.Audit.MaxSize < minAudit {
		f.add("audit.max_size", "must be %v or more, got %v", minAudit, c.Audit.MaxSize)
	}
	if c.Audit.Keep < 1 || c.Audit.Keep > maxAudit {
		f.add("audit.keep", "must be 1 to %d, got %d", maxAudit, c.Audit.Keep)
	}
	for i, r := range c.Recipients {
		path := fmt.Sprintf("recipients[%d]", i)
		if !recipientPattern.MatchString(r) {
			f.add(path, "must be an age recipient (age1...), got %s", quote(r))
		} else if first := slices.Index(c.Recipients, r); first < i {
			f.add(path, "is recipients[%d] again", first)
		}
	}
	if c.Vault.AutoCreate && len(c.Recipients) == 0 {
		f.add("recipients", "must name a recovery key where vault.auto_create is true: "+
			"with the host's key alone, losing the host loses its backups")
	}
	c.Report.check(f)

	oneOf(f, "release", c.Release, ReleaseAgent, ReleaseControlPlane)
	oneOf(f, "hold", c.Hold, holds...)
	if s := c.Prepare.ClaimSilence; s != 0 && s < minClaimSilence {
		f.add("prepare.claim_silence", "must be 0s, which is never, or at least %s, got %s", minClaimSilence, s)
	}
	oneOf(f, "on_fork", c.OnFork, OnForkHold, OnForkRelease)
	if r := c.Precopy.Rounds; r < 0 || r > maxRounds {
		f.add("precopy.rounds", "must be 0 to %d, got %d", maxRounds, r)
	}
	positive(f, "precopy.time", c.Precopy.Time)
	positive(f, "base.max_age", c.Base.MaxAge)
	if p := c.Base.MinFree; p < 0 || p > 100 {
		f.add("base.min_free", "must be 0 to 100 (percent), got %d", p)
	}
	for _, b := range []struct {
		name string
		got  int
	}{{"cpu", c.Brake.CPU}, {"io", c.Brake.IO}, {"memory", c.Brake.Memory}} {
		if b.got < 0 || b.got > 100 {
			f.add("brake."+b.name, "must be 0 to 100 (percent; 0 never brakes), got %d", b.got)
		}
	}
	c.Prepare.check(f)
	c.Bandwidth.check(f)
	c.Retention.check(f)
	oneOf(f, "compression.min", c.Compression.Min, levels...)
	oneOf(f, "compression.max", c.Compression.Max, levels...)
	if least, most := slices.Index(levels, c.Compression.Min), slices.Index(levels, c.Compression.Max); most >= 0 && most < least {
		f.add("compression.max", "must not be below compression.min, %s; got %s", c.Compression.Min, c.Compression.Max)
	}
	oneOf(f, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf(f, "log.format", c.Log.Format, "text", "json")
	c.checkLimits(f)
	c.checkInstances(f)
	c.checkOverlaps(f)
}

// levels of compression, from cheap to strong.
var levels = []string{"s2", "fastest", "default", "better"}

var holds = []string{HoldPrecopy, HoldFrozen, HoldStop, HoldLive}

func (c *Config) checkLimits(f *faults) {
	l := c.Limits
	if l.Memory < minMemory {
		f.add("limits.memory", "must be %v or more, got %v", minMemory, l.Memory)
	}
	if l.Jobs < 1 || l.Jobs > maxJobs {
		f.add("limits.jobs", "must be 1 to %d, got %d", maxJobs, l.Jobs)
	}
	if l.Queue < 1 || l.Queue > maxQueue {
		f.add("limits.queue", "must be 1 to %d, got %d", maxQueue, l.Queue)
	}
	if l.Held < 1 || l.Held > maxJobs {
		f.add("limits.held", "must be 1 to %d, got %d", maxJobs, l.Held)
	}
	// Each job fills a pack of 16 MiB, and works in about 8 MiB.
	if least := Size(l.Jobs) * (24 << 20); l.Jobs >= 1 && l.Jobs <= maxJobs && l.Memory >= minMemory && l.Memory < least {
		f.add("limits.memory", "must be %v or more for limits.jobs: %d, got %v", least, l.Jobs, l.Memory)
	}
	if l.Requests < 1 || l.Requests > maxRequests {
		f.add("limits.requests", "must be 1 to %d, got %d", maxRequests, l.Requests)
	}
	if l.Connections < minConnections || l.Connections > maxConnections {
		f.add("limits.connections", "must be %d to %d, got %d", minConnections, maxConnections, l.Connections)
	}
	positive(f, "limits.frozen_deadline", l.FrozenDeadline)
	positive(f, "limits.job_deadline", l.JobDeadline)
	positive(f, "limits.drain_timeout", l.DrainTimeout)
	if l.BackupAge < 0 {
		f.add("limits.backup_age", "must be 0s or more, got %v", l.BackupAge)
	}
	positive(f, "limits.store_patience", l.StorePatience)
	if l.VerifiedWithin < 0 || l.VerifiedWithin > maxVerifiedWithin {
		f.add("limits.verified_within", "must be 0s to %v, got %v", maxVerifiedWithin, l.VerifiedWithin)
	}
	if l.FrozenDeadline > l.JobDeadline && l.JobDeadline > 0 {
		f.add("limits.frozen_deadline", "must not be longer than limits.job_deadline (%v), got %v", l.JobDeadline, l.FrozenDeadline)
	}
}

func (c *Config) checkInstances(f *faults) {
	ids := map[string]int{}
	containers := map[[2]string]int{}
	for i := range c.Instances {
		in := &c.Instances[i]
		path := fmt.Sprintf("instances[%d]", i)
		checkID(f, path+".id", in.ID)
		if first, taken := ids[in.ID]; taken && in.ID != "" {
			f.add(path+".id", "%s is the id of instances[%d] already", quote(in.ID), first)
		} else {
			ids[in.ID] = i
		}
		if !tenantPattern.MatchString(in.Tenant) {
			f.add(path+".tenant", "must be 1 to 128 of A-Z a-z 0-9 . _ : @ - and begin with a letter or digit, got %s", quote(in.Tenant))
		}
		if _, own := f.src.at[path+".release"]; own { // an inherited fault has been reported above
			oneOf(f, path+".release", in.Release, ReleaseAgent, ReleaseControlPlane)
		}
		if _, own := f.src.at[path+".hold"]; own {
			oneOf(f, path+".hold", in.Hold, holds...)
		}
		if e := in.Runtime.Exec; e != nil && in.Hold == HoldStop && len(e.Start) == 0 {
			f.add(path+".runtime.exec.start", "is required with hold: stop, so that a backup that fails leaves the instance running")
		}
		in.Runtime.check(f, path+".runtime")
		if d := in.Runtime.Docker; d != nil {
			key := [2]string{d.Host, d.Container}
			if first, taken := containers[key]; taken {
				f.add(path+".runtime.docker.container", "%s is the container of instances[%d] already", quote(d.Container), first)
			} else {
				containers[key] = i
			}
		}
		if len(in.Volumes) == 0 {
			f.add(path+".volumes", "must list at least one volume")
		}
		names := map[string]int{}
		for j := range in.Volumes {
			v := &in.Volumes[j]
			path := fmt.Sprintf("%s.volumes[%d]", path, j)
			checkID(f, path+".name", v.Name)
			if first, taken := names[v.Name]; taken && v.Name != "" {
				f.add(path+".name", "%s is the name of volumes[%d] already", quote(v.Name), first)
			} else {
				names[v.Name] = j
			}
			absolute(f, path+".path", &v.Path, true)
			absolute(f, path+".snapshot_dir", &v.SnapshotDir, false)
			oneOf(f, path+".snapshot", v.Snapshot,
				SnapshotAuto, SnapshotBtrfs, SnapshotReflink, SnapshotThin, SnapshotClassic, SnapshotFreeze, SnapshotFsFreeze)
			checkPatterns(f, path+".exclude", v.Exclude)
			checkPatterns(f, path+".accept_losses", v.AcceptLosses)
		}
	}
}

// checkPatterns checks each pattern of a list, and the list.
func checkPatterns(f *faults, path string, list []string) {
	for i, p := range list {
		if err := pattern.Check(p); err != nil {
			f.add(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
	if len(list) > pattern.MaxPatterns {
		f.add(path, "must have %d patterns at most, got %d", pattern.MaxPatterns, len(list))
	}
}

func (r *Runtime) check(f *faults, path string) {
	set := 0
	for _, is := range []bool{r.Docker != nil, r.Exec != nil, r.None != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		f.add(path, "must have exactly one of docker, exec, none; got %d", set)
	}
	if d := r.Docker; d != nil {
		path := path + ".docker"
		if !containerPattern.MatchString(d.Container) {
			f.add(path+".container", "must be a container's name or id, got %s", quote(d.Container))
		}
		if u, err := url.Parse(d.Host); err != nil || !(u.Scheme == "unix" && filepath.IsAbs(u.Path) || u.Scheme == "tcp" && u.Host != "") {
			f.add(path+".host", "must be unix:///path or tcp://host:port, got %s", quote(d.Host))
		}
		positive(f, path+".timeout", d.Timeout)
		positive(f, path+".stop_timeout", d.StopTimeout)
	}
	if e := r.Exec; e != nil {
		path := path + ".exec"
		command(f, path+".state", e.State, false)
		command(f, path+".freeze", e.Freeze, true)
		command(f, path+".thaw", e.Thaw, true)
		command(f, path+".power_down", e.PowerDown, true)
		command(f, path+".start", e.Start, false)
		positive(f, path+".timeout", e.Timeout)
	}
}

func checkID(f *faults, path, id string) {
	if !instancePattern.MatchString(id) {
		f.add(path, "must be 1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got %s", quote(id))
	}
}

// credentialPrefix begins the name of a credential that the service manager
// gives (LoadCredential= of systemd), in the place of a secret's path.
const credentialPrefix = "credential:"

// credentialsDir is the variable by which systemd says where credentials are.
const credentialsDir = "CREDENTIALS_DIRECTORY"

// secret is absolute for a file that holds a secret: it may be a credential, whose path it becomes.
func secret(f *faults, path string, p *string, required bool) {
	if name, ok := strings.CutPrefix(*p, credentialPrefix); ok {
		dir := os.Getenv(credentialsDir)
		switch {
		case !credentialPattern.MatchString(name):
			f.add(path, "must be credential: and a name, got %s", quote(*p))
		case !filepath.IsAbs(dir):
			f.add(path, "is a credential, but the service manager gave none (LoadCredential= in the unit; "+credentialsDir+" is not set)")
		default:
			*p = filepath.Join(dir, name)
		}
		return
	}
	absolute(f, path, p, required)
}

// absolute checks a path and cleans it.
func absolute(f *faults, path string, p *string, required bool) {
	switch {
	case *p == "" && required:
		f.add(path, "is required")
	case *p == "":
	case !filepath.IsAbs(*p):
		f.add(path, "must be absolute, got %s", quote(*p))
	case strings.ContainsRune(*p, 0):
		f.add(path, "must not hold a zero byte, got %s", quote(*p))
	default:
		*p = filepath.Clean(*p)
	}
}

func command(f *faults, path string, argv []string, required bool) {
	switch {
	case len(argv) == 0 && required:
		f.add(path, "is required: a program and its arguments as a list")
	case len(argv) == 0:
	case !filepath.IsAbs(argv[0]):
		f.add(path+"[0]", "must be the absolute path of a program, got %s", quote(argv[0]))
	}
}

func oneOf(f *faults, path, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		f.add(path, "must be one of %s; got %s", strings.Join(allowed, ", "), quote(got))
	}
}

func positive(f *faults, path string, d time.Duration) {
	if d <= 0 {
		f.add(path, "must be longer than 0s, got %v", d)
	}
}

func checkListen(f *faults, path, addr string, loopback bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		f.add(path, "must be host:port, got %s", quote(addr))
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		f.add(path, "the port must be a number up to 65535, got %s", quote(port))
	} else if ip, err := netip.ParseAddr(host); host != "" && host != "localhost" && err != nil {
		// A name would be looked up at start, when there may be no network yet.
		f.add(path, "the host must be an address, localhost or empty, got %s", quote(host))
	} else if loopback && host != "localhost" && !ip.IsLoopback() {
		f.add(path, "must be a loopback address such as 127.0.0.1:%d, as it asks for no password; got %s", n, quote(addr))
	}
}

func checkStore(f *faults, path, raw string) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		f.add(path, "is required")
	case err != nil || u.Opaque != "":
		f.add(path, "must be a URL such as s3://bucket/prefix?region=r, got %s", quote(redact(raw)))
	case u.User != nil:
		f.add(path, "must not hold credentials: they come from the environment, files or instance metadata")
	case u.Scheme == "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			f.add(path, "must be file:///absolute/path, got %s", quote(raw))
		}
	case u.Scheme == "s3" || u.Scheme == "obs":
		checkBucket(f, path, u)
	default:
		f.add(path, "the scheme must be one of file, s3, obs; got %s", quote(redact(raw)))
	}
}

// storeParameters are the parameters that internal/obs
// takes for a bucket; it has the last word on their values.
var storeParameters = []string{
	"endpoint", "region", "addressing", "integrity", "encryption", "kms-key", "class", "retain", "traffic-limit",
	"ca-file", "client-cert", "client-key", "proxy", "family", "connect-timeout",
}

func checkBucket(f *faults, path string, u *url.URL) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		f.add(path, "what stands after the ? is not key=value&key=value")
		return
	}
	for _, key := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(storeParameters, key) { // its value may be a secret
			f.add(path, "unknown parameter %s; known: %s", quote(key), strings.Join(storeParameters, ", "))
			return
		}
	}
	endpoint := query.Get("endpoint")
	e, err := url.Parse(endpoint)
	switch {
	case u.Host == "":
		f.add(path, "must name a bucket (%s://bucket/prefix)", u.Scheme)
	case endpoint != "" && (err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http"):
		f.add(path, "the endpoint must be http:// or https://host[:port], got %s", quote(redact(endpoint)))
	case endpoint != "" && e.User != nil:
		f.add(path, "the endpoint must not hold credentials")
	case u.Scheme == "obs" && query.Get("region") == "":
		f.add(path, "needs ?region=, such as ap-southeast-3")
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// redact cuts what stands before an @: a faulty URL may hold a
// password, and messages end up in logs.
func redact(raw string) string {
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		return "..." + raw[i:]
	}
	return raw
}

// minClaimSilence leaves time for several signs of
// life of a host, each of which may be tried again.
const minClaimSilence = time.Minute
