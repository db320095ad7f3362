package main

import "path/filepath"

// place has the folders of a tool in a round. Everything there is new in each round,
// caches too: a tool begins as after its installation.
type place struct {
	bin  string
	home string // HOME, caches, settings, temporary files
	repo string // the folder of the repository, empty
	far  string // host:port of the far store, where the repository is a bucket; "" is a folder
}

// bucket is the name of the bucket in a far store.
func (p place) bucket() string { return filepath.Base(p.repo) }

func (p place) in(name string) string { return filepath.Join(p.home, name) }

// phones names the instances, by the folder that they are in.
var phones = map[string]string{"a": "phone-1", "b": "phone-2"}

// tool is one program: how it is called, as its users call it,
// encrypted, with the rest as it comes unless said otherwise.
type tool struct {
	program string // its name on PATH
	version []string
	noted   string // a remark for readers of the figures
	nearby  bool   // it has no way to a far store
	env     func(place) []string
	initial func(place) [][]string
	// backup returns the command that backs up tree, an absolute
	// path; label differs from call to call.
	backup func(p place, tree, label string) []string
	// restore returns the command that restores the newest backup of
	// tree, which has that label, to the folder to.
	restore func(p place, tree, label, to string) []string
	// made says that the folder to must be there before, and that the command runs in it.
	made bool
	// restored is the path of the tree below to after that.
	restored func(tree, to string) string
	verify   func(place) []string
}

const password = "correct horse battery staple"

// below is the path of a restored tree for tools that keep whole paths.
func below(tree, to string) string { return filepath.Join(to, tree) }

var tools = map[string]*tool{
	"holdfast":    holdfast("zstd", "fastest-default"),
	"holdfast-s2": holdfast("S2, which compression.min: s2 allows while the processor is the bottleneck", "s2"),
	"restic": {
		program: "restic",
		version: []string{"version"},
		noted:   "AES-256-CTR with Poly1305, zstd (auto)",
		env: func(p place) []string {
			repo := p.repo
			if p.far != "" {
				repo = "s3:http://" + p.far + "/" + p.bucket()
			}
			return []string{"RESTIC_REPOSITORY=" + repo, "RESTIC_PASSWORD=" + password}
		},
		initial: func(p place) [][]string { return [][]string{{p.bin, "init"}} },
		backup: func(p place, tree, _ string) []string {
			return []string{p.bin, "backup", "--quiet", "--host", phones[filepath.Base(tree)], tree}
		},
		restore: func(p place, tree, _, to string) []string {
			return []string{p.bin, "restore", "latest", "--quiet", "--host", phones[filepath.Base(tree)], "--target", to}
		},
		restored: below,
		verify:   func(p place) []string { return []string{p.bin, "check", "--read-data", "--quiet"} },
	},
	"borg":      borg("lz4", "repokey-blake2: AES-256-CTR with BLAKE2b; lz4, its default"),
	"borg-zstd": borg("zstd", "repokey-blake2: AES-256-CTR with BLAKE2b; zstd"),
	"kopia": {
		program: "kopia",
		version: []string{"--version"},
		noted:   "AES-256-GCM with BLAKE2b; zstd-fastest, for its default is none",
		env: func(p place) []string {
			return []string{
				"KOPIA_PASSWORD=" + password, "KOPIA_CONFIG_PATH=" + p.in("kopia.config"),
				"KOPIA_CACHE_DIRECTORY=" + p.in("kopia-cache"), "KOPIA_LOG_DIR=" + p.in("kopia-log"), "KOPIA_CHECK_FOR_UPDATES=false",
			}
		},
		initial: func(p place) [][]string {
			create := []string{p.bin, "repository", "create", "filesystem", "--path", p.repo}
			if p.far != "" {
				create = []string{
					p.bin, "repository", "create", "s3", "--bucket", p.bucket(), "--endpoint", p.far, "--disable-tls", "--region", farRegion,
					"--access-key", farUser, "--secret-access-key", farSecret,
				}
			}
			return [][]string{
				create,
				{p.bin, "policy", "set", "--global", "--compression", "zstd-fastest"},
			}
		},
		backup: func(p place, tree, label string) []string {
			return []string{p.bin, "snapshot", "create", "--no-progress", "--tags", "label:" + label, tree}
		},
		restore: func(p place, tree, _, to string) []string {
			// a path as the source is its newest snapshot
			return []string{p.bin, "restore", "--no-progress", tree, to}
		},
		restored: func(_, to string) string { return to },
		verify: func(p place) []string {
			return []string{p.bin, "snapshot", "verify", "--no-progress", "--verify-files-percent", "100"}
		},
	},
}

// holdfast is the measured program. levels are the levels of compression that its backups use.
func holdfast(compression, levels string) *tool {
	return &tool{
		version: []string{"version"},
		noted:   "AES-256-GCM, " + compression + "; every backup is confirmed, read back and sampled before it counts",
		env: func(p place) []string {
			store := "file://" + p.repo
			if p.far != "" {
				store = "s3://" + p.bucket() + "?endpoint=http://" + p.far + "&region=" + farRegion
			}
			return []string{"HOLDFAST_STORE=" + store, "HOLDFAST_KEY=" + p.in("key")}
		},
		initial: func(p place) [][]string {
			return [][]string{{p.bin, "key", "new", "--out", p.in("key")}, {p.bin, "vault", "create"}}
		},
		backup: func(p place, tree, _ string) []string {
			return []string{p.bin, "backup", "--compression", levels, "--instance", phones[filepath.Base(tree)], tree}
		},
		restore: func(p place, tree, _, to string) []string {
			return []string{p.bin, "restore", "--instance", phones[filepath.Base(tree)], to}
		},
		restored: func(_, to string) string { return to },
		verify:   func(p place) []string { return []string{p.bin, "verify", "--read-data", "100"} },
	}
}

func borg(compression, noted string) *tool {
	return &tool{
		program: "borg",
		nearby:  true,
		version: []string{"--version"},
		noted:   noted,
		env: func(p place) []string {
			return []string{"BORG_REPO=" + p.repo, "BORG_PASSPHRASE=" + password, "BORG_BASE_DIR=" + p.home}
		},
		initial: func(p place) [][]string { return [][]string{{p.bin, "init", "--encryption", "repokey-blake2"}} },
		backup: func(p place, tree, label string) []string {
			return []string{p.bin, "create", "--compression", compression, "::" + label, tree}
		},
		restore: func(p place, _, label, _ string) []string {
			return []string{p.bin, "extract", "::" + label} // into the folder that it runs in
		},
		made:     true,
		restored: below,
		verify:   func(p place) []string { return []string{p.bin, "check", "--verify-data"} },
	}
}
