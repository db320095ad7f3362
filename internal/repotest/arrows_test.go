package repotest_test

import (
	"path"
	"strings"
	"testing"
)

// levels gives each package its height. A package imports only packages
// below it: not its equals either, so that what two of them share has a
// place of its own and each can be understood, tested and replaced alone.
var levels = map[string]int{
	"internal/e2e":       13, // tests of the whole
	"internal/e2e/fear":  13,
	"internal/e2e/fleet": 13,
	"internal/e2e/year":  13,
	"internal/repotest":  13,
	"packaging":          13, // tests of the whole, installed
	"cmd/holdfast":       12,
	"cmd/holdfastd":      12,
	"internal/bench":     12, // a program; "make bench"
	"agent":              11,
	"agent/service":      10,
	"agent/engine":       9,
	"agent/observe":      8,

	"agent/api":     7,
	"agent/audit":   7,
	"agent/auth":    7,
	"agent/config":  7,
	"agent/janitor": 7,
	"agent/job":     7,
	"agent/metrics": 7,
	"agent/report":  7,
	"agent/runtime": 7,

	"agent/journal": 6,
	"agent/prepare": 6,
	"agent/model":   5, // the records that the packages of the agent share

	"internal/backup":  6,
	"internal/restore": 6,

	"internal/backup/blockshare": 5,
	"internal/backup/known":      5,
	"internal/expire":            5,

	"internal/vault": 4,

	"internal/vault/index": 3,

	"internal/image":            2,
	"internal/origin":           2,
	"internal/vault/format":     1,
	"internal/vault/secondlook": 2,

	"internal/hostid":    1,
	"internal/location":  1,
	"internal/obs":       1,
	"internal/pressure":  1,
	"internal/pulse":     1,
	"internal/snapshot":  1,
	"internal/testbed":   1, // imported by tests alone, of any level
	"internal/tree":      1, // below the vault: recipes are made of its entries
	"internal/webclient": 1,

	"internal/bench/phone":   0, // data that benchmarks read
	"internal/chunk":         0,
	"internal/contain":       0,
	"internal/crashpoint":    0,
	"internal/durable":       0,
	"internal/evidence":      0,
	"internal/mounts":        0,
	"internal/pattern":       0,
	"internal/plain":         0,
	"internal/reread":        0,
	"internal/retention":     0,
	"internal/seal":          0,
	"internal/vault/offheap": 0,
	"systemd":                0,
}

// walls are imports that the levels would allow and that are wrong all the same, with the reason.
var walls = []struct{ from, to, reason string }{
	{"internal/", "log", "low layers call an observer that they are given; the daemon decides what is worth a line"},
	{"internal/", "log/slog", "low layers call an observer that they are given; the daemon decides what is worth a line"},
	{"internal/backup", "internal/obs", "the vault alone knows which objects there are and how they are named"},
	{"internal/restore", "internal/obs", "the vault alone knows which objects there are and how they are named"},
	{"internal/", "os/exec", "an engine that starts programs depends on what is installed; drivers live in agent/runtime"},
	{"agent/job", "internal/", "the state machine is tested without disk, store or network: it consumes interfaces"},
	{"agent/model", "internal/", "records say what follows from their fields; whatever acts on them lies above"},
	{"agent/journal", "internal/", "the file of records needs none of the engine"},
	{"agent/prepare", "internal/", "a decision rests on the facts that it is given"},
	{"agent/job", "net/http", "the state machine is tested without disk, store or network: it consumes interfaces"},
}

// wallDoors are the imports that go through a wall, each with its reason.
var wallDoors = map[[2]string]string{
	{"agent/job", "internal/crashpoint"}:  "the instants at which a crash is interesting are those of the state machine",
	{"agent/job", "internal/contain"}:     "a panic in a job fails that job",
	{"agent/journal", "internal/contain"}: "a panic in one write must not take the other writes of its transaction",
	{"internal/bench", "os/exec"}:         "it runs the programs that it measures",
	{"internal/snapshot", "os/exec"}:      "what lies on a logical volume only LVM's own programs may change",
	{"internal/testbed", "os/exec"}:       "it starts the real parts that tests use",
	{"internal/testbed", "internal/"}:     "only tests import it",
	{"internal/repotest", "os/exec"}:      "only tests",
	{"internal/crashpoint", "os/exec"}:    "only its test",
	{"internal/obs/obstest", "internal/"}: "only tests import it",
}

// home is the one package that imports a foreign module, so that replacing the module touches one
// package, and the support for tests beside that package.
var home = map[string]string{
	"filippo.io/age":                                    "internal/vault",
	"github.com/Shopify/toxiproxy":                      "internal/testbed",
	"github.com/cloudevents/sdk-go":                     "agent/report",
	"github.com/bmatcuk/doublestar":                     "internal/pattern",
	"github.com/containerd/errdefs":                     "agent/runtime",
	"github.com/coreos/go-systemd":                      "cmd/holdfastd",
	"github.com/fxamacker/cbor":                         "internal/vault",
	"github.com/getkin/kin-openapi":                     "agent/api",
	"github.com/goccy/go-yaml":                          "agent/config",
	"github.com/gophercloud/gophercloud":                "agent/auth",
	"github.com/hanwen/go-fuse":                         "internal/testbed",
	"github.com/kardianos/service":                      "cmd/holdfastd",
	"github.com/klauspost/compress":                     "internal/seal",
	"github.com/minio/minio-go":                         "internal/obs",
	"github.com/moby/moby":                              "agent/runtime",
	"github.com/prometheus/client_golang":               "agent/metrics",
	"github.com/prometheus/client_model":                "agent/metrics",
	"github.com/secure-systems-lab/go-securesystemslib": "agent/report",
	"github.com/spf13/cobra":                            "cmd/holdfast",
	"github.com/spf13/pflag":                            "cmd/holdfast",
	// toxiproxy asks for one
	"github.com/rs/zerolog":     "internal/testbed",
	"github.com/vbauerster/mpb": "cmd/holdfast",
	"github.com/zeebo/blake3":   "internal/chunk",
	"go.etcd.io/bbolt":          "agent/journal",
	"go.uber.org/goleak":        "internal/testbed",
}

// testModules may be imported by any test.
var testModules = []string{
	"github.com/google/go-cmp", "github.com/rogpeppe/go-internal", "github.com/Shopify/toxiproxy",
	"go.uber.org/goleak", "pgregory.net/rapid",
}

func TestArrowsPointDownward(t *testing.T) {
	for _, f := range goFiles(t) {
		if isTestSupport(f.pkg) {
			continue
		}
		from, ok := levels[f.pkg]
		if !ok {
			t.Errorf("%s: package %s has no level; give it one in levels", f.path, f.pkg)
			continue
		}
		for _, imported := range f.imports {
			to, ok := strings.CutPrefix(imported, "holdfast/")
			if !ok || to == f.pkg {
				continue
			}
			if f.test && (isTestSupport(to) || to == "internal/testbed") {
				continue
			}
			level, ok := levels[to]
			// A test may use an equal: a restore is tested on a real backup.
			if !ok || level > from || level == from && !f.test {
				t.Errorf("%s: %s (level %d) imports %s (level %d); arrows point downward", f.path, f.pkg, from, to, level)
			}
			if to == "internal/testbed" || isTestSupport(to) {
				t.Errorf("%s: imports %s, which is for tests", f.path, to)
			}
		}
	}
}

func TestWalls(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || isTestSupport(f.pkg) {
			continue
		}
		for _, imported := range f.imports {
			to := strings.TrimPrefix(imported, "holdfast/")
			for _, w := range walls {
				if !under(f.pkg, w.from) || !under(to, w.to) || wallDoors[[2]string{f.pkg, to}] != "" || wallDoors[[2]string{f.pkg, w.to}] != "" {
					continue
				}
				t.Errorf("%s: %s imports %s: %s", f.path, f.pkg, to, w.reason)
			}
		}
	}
}

func TestEachModuleHasOneHome(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, imported := range f.imports {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || first == "golang.org" || f.test && hasPrefixPath(imported, testModules...) {
				continue
			}
			var found bool
			for module, pkg := range home {
				if !hasPrefixPath(imported, module) {
					continue
				}
				found = true
				if f.pkg != pkg && !(isTestSupport(f.pkg) && path.Dir(f.pkg) == pkg) {
					t.Errorf("%s: %s imports %s, whose home is %s", f.path, f.pkg, imported, pkg)
				}
			}
			if !found {
				t.Errorf("%s: %s has no home yet; give it one in home", f.path, imported)
			}
		}
	}
}

// isTestSupport tells packages that only tests import: conformance
// suites such as internal/obs/obstest.
func isTestSupport(pkg string) bool {
	return strings.HasSuffix(path.Base(pkg), "test") && pkg != "internal/repotest"
}

// under reports whether pkg is pattern, or below it where pattern ends in a slash.
func under(pkg, pattern string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(pkg, pattern)
	}
	return pkg == pattern
}

func hasPrefixPath(p string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if p == prefix || strings.HasPrefix(p, prefix+"/") {
			return true
		}
	}
	return false
}
