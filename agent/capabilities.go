package agent

import (
	"slices"
	"strings"

	"holdfast/agent/config"
)

// Capability is a capability of Linux and the agent's reason to need it.
type Capability struct {
	Name string // CAP_…
	Why  string
}

// Why a capability is kept.
const (
	whyRead     = "files of every owner are read, and keep their time of access"
	whySnapshot = "snapshots, frozen file systems and trusted attributes"
	whyMade     = "snapshots are made beside volumes of every owner"
	whyLVM      = "volumes may be logical ones"
	whyStacked  = "file systems that containers have mounted from a volume are flushed"
	whyRestore  = "restores (prepare) write every owner, mode and kind of file"
	whyStore    = "the store is a folder"
	whyKill     = "containers end with their processes"
)

// Capabilities tells which capabilities the work needs that is configured, or that an
// earlier life has left, the most general reason first. All is true where any
// may be needed: by the commands of an exec runtime. The agent must not run yet.
func (a *Agent) Capabilities() (need []Capability, all bool, err error) {
	jobs, err := a.journal.Active()
	if err != nil {
		return nil, false, err
	}
	bases, err := a.journal.Bases("")
	if err != nil {
		return nil, false, err
	}
	left := leftWork{snapshots: len(jobs)+len(bases) > 0}
	for _, j := range jobs {
		left.restore = left.restore || j.IsRestore()
		// The commands of an instance that left the configuration may still have to let it go.
		if in, err := a.instances.Recall(j.Instance, j.Kept); err == nil {
			left.instances = append(left.instances, *in.Config())
		}
	}
	need, all = capabilities(a.cfg, left)
	return need, all, nil
}

// leftWork is the work that an earlier life has left, perhaps with another configuration.
type leftWork struct {
	snapshots bool // there may be some, of any kind
	restore   bool // one has not ended
	instances []config.Instance
}

// capabilities is Capabilities by the things that decide it.
func capabilities(cfg *config.Config, left leftWork) (need []Capability, all bool) {
	docker, made, lvm := false, left.snapshots, left.snapshots
	for _, in := range slices.Concat(cfg.Instances, left.instances) {
		switch in.Runtime.Kind() {
		case "exec":
			return nil, true
		case "docker":
			docker = true
		}
		for _, v := range in.Volumes {
			switch v.Snapshot {
			case config.SnapshotFreeze, config.SnapshotFsFreeze:
			case config.SnapshotAuto, config.SnapshotThin, config.SnapshotClassic:
				made, lvm = true, true
			default:
				made = true
			}
		}
	}
	add := func(wanted bool, why string, names ...string) {
		for _, name := range names {
			if wanted && !slices.ContainsFunc(need, func(p Capability) bool { return p.Name == name }) {
				need = append(need, Capability{name, why})
			}
		}
	}
	add(true, whyRead, "CAP_DAC_READ_SEARCH", "CAP_FOWNER")
	add(true, whySnapshot, "CAP_SYS_ADMIN")
	add(true, whyStacked, "CAP_SYS_PTRACE") // not in the unit: a drop-in gives it
	// The last two are not in the unit: a drop-in gives them where
	// restores of flags are to be exact.
	add(!cfg.Prepare.Refuse || left.restore, whyRestore, "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP", "CAP_MKNOD",
		"CAP_LINUX_IMMUTABLE", "CAP_SYS_RESOURCE")
	add(made, whyMade, "CAP_DAC_OVERRIDE")
	add(lvm, whyLVM, "CAP_CHOWN", "CAP_MKNOD", "CAP_IPC_LOCK")
	add(strings.HasPrefix(cfg.Store.URL, "file:"), whyStore, "CAP_DAC_OVERRIDE")
	add(docker, whyKill, "CAP_KILL")
	return need, false
}
