// Package config turns one YAML file into a Config, or into the list of everything that is wrong
// with it, each fault with its line, its column and its path.
//
// Callers are the programs and package agent. Parse looks at nothing but the bytes it is given;
// Config.CheckFiles looks at the files that a Config names (`holdfastd check-config`). The package
// starts no goroutine and writes nothing.
package config

import (
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Example is a commented configuration file, installed as /etc/holdfast/holdfast.yaml.example.
// It parses; the paths and names in it are to be replaced.
//
//go:embed example.yaml
var Example []byte

// DefaultPath is where the daemon looks for its file.
const DefaultPath = "/etc/holdfast/holdfast.yaml"

// Defaults of settings that the file may leave out, each with its reason.
const (
	// DefaultStateDir is where systemd's StateDirectory=holdfast points.
	DefaultStateDir = "/var/lib/holdfast"
	// DefaultSigningKey is in the state folder: an identity of the host that goes with its journal.
	DefaultSigningKey = "signing.pem"
	// DefaultListen takes all addresses: the control plane is on
	// another host. 8443 needs no privilege.
	DefaultListen = ":8443"
	// DefaultSocket is below systemd's RuntimeDirectory=holdfast, which goes when the daemon goes.
	DefaultSocket = "/run/holdfast/holdfast.sock"
	// DefaultMetricsListen is loopback, as metrics are served without a password.
	DefaultMetricsListen = "127.0.0.1:9477"
	// DefaultRelease powers down as soon as the report is acknowledged, as the
	// contract's backup call promises ("then release the physical instances").
	DefaultRelease = ReleaseAgent
	// DefaultHold keeps an instance still for seconds where its
	// storage makes snapshots, and else as long as reading it takes.
	DefaultHold = HoldPrecopy
	// DefaultPrecopyRounds is enough for a phone: the second round
	// has the writes of minutes, the third the writes of seconds.
	DefaultPrecopyRounds = 4
	// DefaultPrecopyEnough is one pack, which most links store in less than a second.
	DefaultPrecopyEnough Size = 16 << 20
	// DefaultPrecopyTime ends the rounds of an instance that writes as fast as it is stored.
	DefaultPrecopyTime = time.Hour
	// DefaultBaseMaxAge keeps a base from one nightly backup to
	// the next, and over a weekend. Later writes take space twice.
	DefaultBaseMaxAge = 72 * time.Hour
	// DefaultBaseMinFree is where file systems that copy on write begin to slow down.
	DefaultBaseMinFree = 10
	// DefaultCompressionMin is the cheapest level of zstd: most stores are faster than the
	// cores are at any stronger level, and the instances need the cores too. Level s2 takes
	// a third of that CPU, but the store keeps the additional bytes for months.
	DefaultCompressionMin = "fastest"
	// DefaultCompressionMax stores about 2 % less of a phone for 1.4
	// times the CPU, which is free while a backup waits for the store.
	// The next level takes twice as much again and gains little there.
	DefaultCompressionMax = "default"
	// DefaultHeld lets a few instances stand still at a time: more would
	// share the store's bandwidth, and each stand still for longer.
	DefaultHeld = 4
	// DefaultMemory holds some packs of 16 MiB in flight per job beside the read
	// buffers; more gains nothing below 10 Gbit/s and is taken from the instances.
	DefaultMemory Size = 256 << 20
	// DefaultJobs hides the round trips of small jobs behind each other: all jobs share the
	// workers and the memory, so more cost little, and each needs the memory of one pack.
	DefaultJobs = 8
	// DefaultBrakeCPU, DefaultBrakeIO and DefaultBrakeMemory leave a host alone
	// that is busy, and slow down on one where tasks wait for most of the time.
	// Memory is the least patient: a host that swaps is nearly standing.
	DefaultBrakeCPU    = 70
	DefaultBrakeIO     = 50
	DefaultBrakeMemory = 20
	// DefaultQueue lets ten full batches of 100 instances wait.
	DefaultQueue = 1000
	// DefaultFrozenDeadline is how long users of an instance bear that it stands
	// still before a failed backup is the lesser evil. It covers 100 GiB at 30 MB/s.
	DefaultFrozenDeadline = time.Hour
	// DefaultJobDeadline ends a job whose store or disk makes no progress over a night.
	DefaultJobDeadline = 12 * time.Hour
	// DefaultVerifiedWithin is longer than most control planes take to acknowledge,
	// so that the usual job asks the store nothing more, and shorter than the time
	// in which a lifecycle rule or a person removes a bucket's objects unnoticed.
	DefaultVerifiedWithin = 5 * time.Minute
	// DefaultBackupAge is when an instance that is backed up every
	// night has had no backup for some nights.
	DefaultBackupAge = 72 * time.Hour
	// DefaultKeepReplaced lets people notice on Monday
	// the content that a prepare has replaced on Friday.
	DefaultKeepReplaced = 72 * time.Hour
	// MinFreeAuto is the default of prepare.min_free: autoPercent of the file system, and no more
	// than autoMost, which neighbours need minutes to write.
	MinFreeAuto      = "auto"
	autoPercent      = 5
	autoMost    Size = 16 << 30
	// DefaultMinFreeInodes is the same share of the inodes, on file systems with few inodes.
	DefaultMinFreeInodes = 5
	// DefaultDrainTimeout stays below the 90 s that systemd waits by default
	// before it kills; work that is not finished by then resumes from the journal.
	DefaultDrainTimeout = time.Minute
	// DefaultStorePatience outlasts a restart of a store and a connection that has to be given
	// up (a minute), and is a small part of what users bear that an instance stands still.
	DefaultStorePatience = 2 * time.Minute
	// DefaultClaimSilence outlasts a restart of a host, and an outage of its network that ends by
	// itself: a second host that takes over too early makes a fork.
	DefaultClaimSilence = time.Hour
	// DefaultRequests is some hundred times the requests of a
	// control plane that polls each task every few seconds.
	DefaultRequests = 50
	// DefaultConnections takes 40 MB at most, at some 40 KB each with TLS.
	DefaultConnections = 1024
	// DefaultAudit is in the state folder, beside the journal.
	DefaultAudit = "audit.log"
	// DefaultAuditSize holds some 200,000 commands.
	DefaultAuditSize Size = 64 << 20
	// DefaultAuditKeep is years of a busy host, in 640 MiB.
	DefaultAuditKeep = 9
	// DefaultReportTimeout is far above the time of a healthy receiver.
	DefaultReportTimeout = 30 * time.Second
	// DefaultReportProgress lets people watch a backup, and is
	// bearable for a control plane of thousands of hosts.
	DefaultReportProgress = 10 * time.Second
	// DefaultReportBatch is the contract's limit on a batch of commands too.
	DefaultReportBatch = 100
	// DefaultIAMLookups lets hundreds of callers in, whose tokens are
	// remembered, and is little for an IAM that serves a cloud.
	DefaultIAMLookups = 20
	// DefaultCommandTimeout is for freeze, thaw and the like of a
	// runtime: they take milliseconds, or hang.
	DefaultCommandTimeout = 30 * time.Second
	// DefaultStopTimeout is what `docker stop` waits by default before it kills.
	DefaultStopTimeout = 10 * time.Second
	// DefaultDockerHost is where Debian's and Docker's own packages listen.
	DefaultDockerHost = "unix:///var/run/docker.sock"
	// DefaultLogLevel shows the lines on which an operator acts.
	DefaultLogLevel = "info"
	// DefaultLogFormat is text: the journal adds time and unit itself, and people read it there.
	DefaultLogFormat = "text"
)

// Release policies: who decides that an instance is powered down after its report was acknowledged.
const (
	ReleaseAgent = "agent" // the agent does it at once
	// it stays frozen until it is told to release or to resume
	ReleaseControlPlane = "control-plane"
)

// Rules by which an answer acknowledges a report.
const (
	// only answers that the control plane alone gives; see agent/report
	AcknowledgeControlPlane = "control-plane"
	AcknowledgeAny2xx       = "any-2xx" // each status from 200 to 299, whoever answers
)

// What becomes of an instance whose backup makes a fork with a backup of another host.
const (
	OnForkHold    = "hold"    // the release waits until the control plane or an operator decides
	OnForkRelease = "release" // the backup of this host becomes the newest one
)

// Ways to hold an instance for its last snapshot.
const (
	HoldPrecopy = "precopy" // most is stored while it runs; it is frozen for the rest
	HoldFrozen  = "frozen"  // frozen before the first byte is read
	HoldStop    = "stop"    // as precopy, but stopped in its own way and not frozen
	HoldLive    = "live"    // not held at all, and never released
)

// Ways to snapshot a volume.
const (
	SnapshotAuto     = "auto" // the best that the volume's file system can do
	SnapshotBtrfs    = "btrfs"
	SnapshotReflink  = "reflink" // of an image
	SnapshotThin     = "lvm-thin"
	SnapshotClassic  = "lvm-classic"
	SnapshotFreeze   = "freeze"   // read in place while the instance is held
	SnapshotFsFreeze = "fsfreeze" // and its file system frozen
)

// Config is the whole configuration, checked and with defaults filled in. It is not changed after
// Parse returned it. All paths are absolute and clean.
type Config struct {
	// default: the host's name; same form as an instance id
	HostID        string `yaml:"host_id"`
	StateDir      string `yaml:"state_dir"`
	Listen        string `yaml:"listen"` // control-plane API, host:port; "" is off
	TLS           TLS    `yaml:"tls"`
	Socket        string `yaml:"socket"`         // operator API
	MetricsListen string `yaml:"metrics_listen"` // loopback host:port; "" is off
	Store         Store  `yaml:"store"`
	KeyFile       string `yaml:"key_file"` // the host's age identity
	// age recipients that can open new vaults, beside the host
	Recipients     []string `yaml:"recipients"`
	Vault          Vault    `yaml:"vault"`
	SigningKeyFile string   `yaml:"signing_key_file"` // Ed25519 key that signs receipts
	// hashed tokens of callers; "" where IAM or certificates say who calls
	TokensFile string `yaml:"tokens_file"`
	IAM        IAM    `yaml:"iam"`
	Audit      Audit  `yaml:"audit"`
	Report     Report `yaml:"report"`
	// ReleaseAgent or ReleaseControlPlane; of instances that say nothing
	Release string `yaml:"release"`
	// OnFork is what becomes of an instance whose backup does not descend from the newest one:
	// OnForkHold or OnForkRelease.
	OnFork string `yaml:"on_fork"`
	// one of the Hold constants; of instances that say nothing
	Hold        string      `yaml:"hold"`
	Precopy     Precopy     `yaml:"precopy"`
	Base        Base        `yaml:"base"`
	Prepare     Prepare     `yaml:"prepare"`
	Compression Compression `yaml:"compression"`
	Brake       Brake       `yaml:"brake"`
	Bandwidth   Bandwidth   `yaml:"bandwidth"`
	Retention   Retention   `yaml:"retention"`
	Limits      Limits      `yaml:"limits"`
	Log         Log         `yaml:"log"`
	Instances   []Instance  `yaml:"instances"`

	src *source // where each value stood; nil for a Config that was not parsed
}

// TLS is for the control-plane listener.
type TLS struct {
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
	ClientCAFile string `yaml:"client_ca_file"` // "" asks for no client certificate
	// ClientCRLFile has the authorities' revocation lists; "" revokes nobody.
	ClientCRLFile string `yaml:"client_crl_file"`
	// Clients are the callers that need no token. With none, a
	// certificate of ClientCAFile is needed beside the token.
	Clients []Client `yaml:"clients"`
}

// Client is who calls with a certificate of a certain name.
type Client struct {
	Name   string `yaml:"name"`   // the common name or an alternative one, exactly
	Role   string `yaml:"role"`   // control-plane, operator or read-only
	Tenant string `yaml:"tenant"` // "" is every tenant
}

// Audit is the log of who commanded what.
type Audit struct {
	File    string `yaml:"file"`     // default: audit.log in StateDir
	MaxSize Size   `yaml:"max_size"` // of one file; then a new one begins
	Keep    int    `yaml:"keep"`     // files beside the current one
}

// IAM is a Keystone v3 that says whose a token is.
type IAM struct {
	// https://host/v3, or http to a loopback address; "" asks none
	URL    string `yaml:"url"`
	CAFile string `yaml:"ca_file"` // "" trusts the system's
	// the account that looks tokens up; "" has each token ask about itself
	AccountFile string `yaml:"account_file"`
	// tokens a second that IAM may be asked about; a quarter of them for one address
	Lookups int `yaml:"lookups"`
	// role of IAM -> what its holders may do; any other is a tenant's
	Roles map[string]IAMRole `yaml:"roles"`
}

// IAMRole is the rights of the holders of a role of IAM.
// In the file it is the name of a role, or a mapping.
type IAMRole struct {
	Role string `yaml:"role"` // control-plane, operator or read-only
	// Project and Domain are ids. They bound the mapping to tokens of this project, or to
	// tokens of this domain and of its projects. One is required for an operator, who sees
	// every tenant: anybody may have a role of the same name in an account of their own.
	Project string `yaml:"project"`
	Domain  string `yaml:"domain"`
}

// setText takes the name of a role that stands for the whole mapping.
func (r *IAMRole) setText(text string) { r.Role = text }

// Store is where backups go.
type Store struct {
	// file:///path, s3://bucket/prefix?…, obs://bucket/prefix?…
	URL string `yaml:"url"`
	// secret that goes into vault ids; "" lets who knows a tenant's id find its vault
	NameKeyFile string `yaml:"name_key_file"`
}

// Vault says how vaults come to be.
type Vault struct {
	AutoCreate bool `yaml:"auto_create"` // make a tenant's vault on its first backup
}

// Report is where reports go.
type Report struct {
	URL       string `yaml:"url"`        // https, or http to a loopback address
	CAFile    string `yaml:"ca_file"`    // "" trusts the system's
	TokenFile string `yaml:"token_file"` // sent as a bearer token; "" sends none
	// Acknowledge is the rule by which an answer acknowledges:
	// AcknowledgeControlPlane or AcknowledgeAny2xx.
	Acknowledge string        `yaml:"acknowledge"`
	Timeout     time.Duration `yaml:"timeout"` // of one request
	// between two progress reports of a job; 0 sends none
	Progress time.Duration `yaml:"progress"`
	// events in one request, to a receiver that takes batches; 1 sends none
	Batch int `yaml:"batch"`
}

// Precopy bounds the rounds that store an instance while it runs.
type Precopy struct {
	Rounds int           `yaml:"rounds"` // at most; 0: none
	Enough Size          `yaml:"enough"` // a round that read no more is the last
	Time   time.Duration `yaml:"time"`   // of all rounds; a begun round is finished
	Bytes  Size          `yaml:"bytes"`  // read by all rounds; 0 is no limit
}

// Base says which snapshots stay after a restore, and after a backup that
// does not end in release, so that the next one reads only what differs.
type Base struct {
	Keep   bool          `yaml:"keep"`
	MaxAge time.Duration `yaml:"max_age"` // an older one is removed
	// percent of the space there; with less, the oldest are removed
	MinFree int `yaml:"min_free"`
}

// Compression bounds how much CPU goes into storing less: the level rises
// while a backup waits for the store, and falls while the store waits for it.
type Compression struct {
	Min string `yaml:"min"` // s2, fastest, default or better
	Max string `yaml:"max"` // likewise, and not below Min
}

// Prepare is about restores on command, and says what follows them.
type Prepare struct {
	// Refuse takes no such command. The agent then needs, and has, fewer powers over the volumes.
	Refuse bool `yaml:"refuse"`
	// ClaimSilence is for how long another host gives no sign of life until its claim on an
	// instance is taken over, or longer, where that host says that it gives signs more seldom;
	// 0: never.
	ClaimSilence time.Duration `yaml:"claim_silence"`
	// Start brings the instance up. Without, the control plane does;
	// its runtime need not know it yet then.
	Start bool `yaml:"start"`
	// KeepReplaced is for how long the content that a restore has replaced is kept, unless a
	// backup holds that content for certain. Only time in which the host is up counts.
	KeepReplaced time.Duration `yaml:"keep_replaced"`
	// MinFree is the space that a restore leaves free on each file system:
	// MinFreeAuto, a size, or a percentage such as 5%. See Reserve.
	MinFree       string `yaml:"min_free"`
	MinFreeInodes int    `yaml:"min_free_inodes"` // percent of the inodes, likewise
	// InPlaceOrder removes the old volumes of an instance before the restore where there is no
	// room for both, and only if a backup holds all of their content for certain.
	InPlaceOrder bool `yaml:"in_place_order"`
}

// Brake says from where on rounds of pre-copy give way to the host's other work:
// percent of the time in which some task waits for that resource; 0 never.
type Brake struct {
	CPU    int `yaml:"cpu"`
	IO     int `yaml:"io"`
	Memory int `yaml:"memory"`
}

// Limits are the budgets.
type Limits struct {
	Memory Size `yaml:"memory"` // bytes of buffers of all jobs together
	Jobs   int  `yaml:"jobs"`   // with content to store at the same time
	Queue  int  `yaml:"queue"`  // jobs that wait; more are refused
	// instances that stand still at the same time for work under way
	Held int `yaml:"held"`
	// longest freeze before a job fails and thaws
	FrozenDeadline time.Duration `yaml:"frozen_deadline"`
	JobDeadline    time.Duration `yaml:"job_deadline"` // longest job up to its manifest
	// before a power-down; an older verification is made anew; 0 makes it always
	VerifiedWithin time.Duration `yaml:"verified_within"`
	// after which an instance without a newer backup is in trouble; 0: never
	BackupAge time.Duration `yaml:"backup_age"`
	// how long a stopping daemon waits for its jobs
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// longest silence of the store before an instance that stands still is let go until it ends
	StorePatience time.Duration `yaml:"store_patience"`
	Requests      int           `yaml:"requests"` // a second and caller, over the network
	// over the network, at the same time; a quarter from one address
	Connections int `yaml:"connections"`
}

// Log says which lines are logged, and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// Instance is one tenant workload on this host.
type Instance struct {
	ID      string   `yaml:"id"`
	Tenant  string   `yaml:"tenant"`
	Release string   `yaml:"release"` // filled in from Config.Release
	Hold    string   `yaml:"hold"`    // filled in from Config.Hold
	Runtime Runtime  `yaml:"runtime"`
	Volumes []Volume `yaml:"volumes"` // at least one
}

// Runtime says how an instance is held and powered down. Exactly one field is set.
type Runtime struct {
	Docker *Docker `yaml:"docker"`
	Exec   *Exec   `yaml:"exec"`
	None   *None   `yaml:"none"`
}

// Kind is "docker", "exec" or "none".
func (r Runtime) Kind() string {
	switch {
	case r.Docker != nil:
		return "docker"
	case r.Exec != nil:
		return "exec"
	default:
		return "none"
	}
}

// Docker is a container.
type Docker struct {
	Container   string        `yaml:"container"` // name or id; default: the instance's id
	Host        string        `yaml:"host"`      // of the engine: unix:///path or tcp://host:port
	Timeout     time.Duration `yaml:"timeout"`   // of each call but stop
	StopTimeout time.Duration `yaml:"stop_timeout"`
}

// Exec is an instance that commands act on. Each command is a program (absolute path) and its
// arguments, run without a shell.
type Exec struct {
	State     []string      `yaml:"state"` // prints running, frozen, stopped or missing
	Freeze    []string      `yaml:"freeze"`
	Thaw      []string      `yaml:"thaw"`
	PowerDown []string      `yaml:"power_down"`
	Start     []string      `yaml:"start"`
	Timeout   time.Duration `yaml:"timeout"` // of each command
}

// None is an instance that nobody runs: a plain folder. Freeze and power-down do nothing.
type None struct{}

// Volume is one directory tree of an instance.
type Volume struct {
	Name     string `yaml:"name"`
	Path     string `yaml:"path"`
	Snapshot string `yaml:"snapshot"` // SnapshotAuto or one of the others
	// where snapshots are made; "" leaves it to the provider
	SnapshotDir string `yaml:"snapshot_dir"`
	// back it up although it became empty, or lies on another file system
	AllowEmpty bool `yaml:"allow_empty"`
	// Exclude are patterns of paths that no backup holds (see internal/pattern), and ExcludeCaches
	// leaves out what folders with a CACHEDIR.TAG hold. An image has no paths, and ignores both.
	Exclude       []string `yaml:"exclude"`
	ExcludeCaches bool     `yaml:"exclude_caches"`
	// AcceptLosses are patterns of paths at which content may be
	// missing: elsewhere a loss fails the backup.
	AcceptLosses []string `yaml:"accept_losses"`
	// AcceptUnflushed has jobs go on where something that is mounted
	// on the volume can't be flushed. Without, they fail.
	AcceptUnflushed bool `yaml:"accept_unflushed"`
}

// Size is a number of bytes, written as 512B, 64KiB, 256MiB, 2GiB or 1TiB.
type Size int64

// sizeUnits from the largest.
var sizeUnits = []struct {
	name  string
	bytes Size
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String writes s with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return "0B"
}

// ParseSize reads the output of Size.String. Units are required, and
// binary: a bare number or "MB" is ambiguous. 0 is the same in all.
func ParseSize(text string) (Size, error) {
	if text == "0" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || Size(n) > (1<<63-1)/u.bytes {
			break
		}
		return Size(n) * u.bytes, nil
	}
	return 0, fmt.Errorf("%q is not a size such as 256MiB", text)
}

// Load reads and parses the file at path. The error is *Faults where the file could be read.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(data, path)
}
