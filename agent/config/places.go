package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/contain"
	"holdfast/internal/location"
)

// owned is a path that the agent uses, or a volume.
type owned struct {
	path   string
	name   string // of the value in the configuration
	volume bool
	in     [2]int // instance and volume, of a volume
}

// owned lists the paths that must not lie in one another where one of
// them is a volume: a restore of a volume replaces all that lies in it,
// a backup of it holds the keys in it, and its tenant may write there.
func (c *Config) owned() []owned {
	var all []owned
	add := func(name, path string) {
		if filepath.IsAbs(path) {
			all = append(all, owned{path: filepath.Clean(path), name: name})
		}
	}
	add("state_dir", c.StateDir)
	add("socket", c.Socket)
	if u, err := url.Parse(c.Store.URL); err == nil && u.Scheme == "file" {
		add("the store", u.Path)
	}
	add("key_file", c.KeyFile)
	add("store.name_key_file", c.Store.NameKeyFile)
	add("signing_key_file", c.SigningKeyFile)
	add("audit.file", c.Audit.File)
	add("tokens_file", c.TokensFile)
	add("iam.account_file", c.IAM.AccountFile)
	add("iam.ca_file", c.IAM.CAFile)
	add("report.token_file", c.Report.TokenFile)
	add("report.ca_file", c.Report.CAFile)
	add("tls.cert_file", c.TLS.CertFile)
	add("tls.key_file", c.TLS.KeyFile)
	add("tls.client_ca_file", c.TLS.ClientCAFile)
	add("tls.client_crl_file", c.TLS.ClientCRLFile)
	for i, in := range c.Instances {
		if d := in.Runtime.Docker; d != nil {
			if socket, ok := strings.CutPrefix(d.Host, "unix://"); ok {
				add(fmt.Sprintf("instances[%d].runtime.docker.host", i), socket)
			}
		}
		if e := in.Runtime.Exec; e != nil {
			for _, argv := range [][]string{e.State, e.Freeze, e.Thaw, e.PowerDown, e.Start} {
				if len(argv) > 0 {
					add(fmt.Sprintf("a program of instances[%d].runtime.exec", i), argv[0])
				}
			}
		}
		for j, v := range in.Volumes {
			if filepath.IsAbs(v.Path) {
				all = append(all, owned{path: filepath.Clean(v.Path), name: fmt.Sprintf("instances[%d].volumes[%d].path", i, j), volume: true, in: [2]int{i, j}})
			}
			add(fmt.Sprintf("instances[%d].volumes[%d].snapshot_dir", i, j), v.SnapshotDir)
		}
	}
	return all
}

// checkOverlaps finds paths that lie in one another by how they are
// written. CheckVolumes finds the others.
func (c *Config) checkOverlaps(f *faults) {
	all := c.owned()
	byPath := map[string][]int{}
	for i, o := range all {
		byPath[o.path] = append(byPath[o.path], i)
	}
	for i, inner := range all {
		for dir := inner.path; ; dir = filepath.Dir(dir) {
			for _, j := range byPath[dir] {
				if i != j && (inner.volume || all[j].volume) {
					overlap(f, inner, all[j])
				}
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
}

// overlap reports that one of two lies in the other, at the volume. Of two
// volumes it is the inner one, and the later of two that are the same.
func overlap(f *faults, inner, outer owned) {
	at, other := inner, outer
	if !inner.volume || outer.volume && inner.path == outer.path && slices.Compare(inner.in[:], outer.in[:]) < 0 {
		at, other = outer, inner
	}
	f.add(at.name, "%s overlaps %s (%s)", quote(at.path), other.name, other.path)
}

// VolumeFault is why a volume must not be used as it is configured.
type VolumeFault struct {
	Instance, Volume int // indexes into Config.Instances and Instance.Volumes
	Err              error
}

// CheckVolumes looks where the volumes of an instance lie now, or the volumes of all instances
// with -1: no part of a path may be a link, or lie in a folder that somebody else than root
// can write to (location.Strict), and no volume may overlap another volume, or a file or
// folder of the agent, through any mounts and links. A path that is not there yet is no fault,
// nor is any other error of look. look is called for all paths, from several goroutines at
// once; it is location.Of or location.Strict, or gives up where a file system does not answer.
func (c *Config) CheckVolumes(instance int, look func(path string, strict bool) (location.Location, error)) []VolumeFault {
	var found []VolumeFault
	all := c.owned()
	at, errs := c.locate(all, look)
	bad := map[[2]int]bool{}
	fault := func(in [2]int, err error) {
		if !bad[in] && (instance < 0 || in[0] == instance) {
			bad[in] = true
			found = append(found, VolumeFault{in[0], in[1], err})
		}
	}
	byID := map[location.ID][]int{}
	byPlace := map[fsPlace][]int{}
	for i, o := range all {
		if errors.Is(errs[i], location.ErrUnsafe) {
			fault(o.in, errs[i])
		}
		if at[i].There {
			byID[at[i].ID] = append(byID[at[i].ID], i)
		}
		if at[i].Inside != "" {
			p := fsPlace{at[i].FileSystem, at[i].Inside}
			byPlace[p] = append(byPlace[p], i)
		}
	}
	pair := func(inner, outer int) {
		a, b := all[inner], all[outer]
		if inner == outer || !a.volume && !b.volume {
			return
		}
		if b.volume {
			fault(b.in, fmt.Errorf("%s overlaps %s (%s), which lies there too", quote(b.path), a.name, a.path))
		}
		if a.volume {
			fault(a.in, fmt.Errorf("%s overlaps %s (%s), which lies there too", quote(a.path), b.name, b.path))
		}
	}
	for i, l := range at {
		ids := l.Above
		if l.There {
			ids = append(slices.Clone(ids), l.ID)
		}
		for _, id := range ids {
			for _, j := range byID[id] {
				pair(i, j)
			}
		}
		for inside := l.Inside; inside != ""; inside = filepath.Dir(inside) {
			for _, j := range byPlace[fsPlace{l.FileSystem, inside}] {
				pair(i, j)
			}
			if inside == "/" || inside == "." {
				break
			}
		}
	}
	return found
}

// lookers bounds how many paths are looked at at once.
const lookers = 16

// locate finds where paths lie: of volumes strictly, and where that
// fails for safety without the strict rule, with the reason. A path that
// can't be looked at lies nowhere; the part that uses it reports that.
func (c *Config) locate(all []owned, look func(path string, strict bool) (location.Location, error)) ([]location.Location, []error) {
	at, errs := make([]location.Location, len(all)), make([]error, len(all))
	var g contain.Group
	g.SetLimit(lookers)
	for i, o := range all {
		g.Go(func() error {
			if at[i], errs[i] = look(o.path, o.volume); errors.Is(errs[i], location.ErrUnsafe) {
				at[i], _ = look(o.path, false)
			}
			return nil
		})
	}
	_ = g.Wait() // a panic leaves a path that lies nowhere
	return at, errs
}

// Look is location.Strict or location.Of.
func Look(path string, strict bool) (location.Location, error) {
	if strict {
		return location.Strict(path)
	}
	return location.Of(path)
}

// fsPlace is a place of a file system.
type fsPlace struct {
	fileSystem uint64
	inside     string
}

// CheckPlaces is CheckVolumes of all instances, as faults of the file.
func (c *Config) CheckPlaces() error {
	f := &faults{src: c.src, seen: map[string]bool{}}
	for _, v := range c.CheckVolumes(-1, Look) {
		f.add(fmt.Sprintf("instances[%d].volumes[%d].path", v.Instance, v.Volume), "%v", v.Err)
	}
	return f.err()
}
