package job

import (
	"errors"
	"fmt"

	"holdfast/agent/model"
)

// A job acts on its instance by its own record in the journal. The configuration
// may lose an instance, or give its id to something else, while a job holds it;
// the instance must still be let go, released and resumed then. So each
// unfinished job carries everything that the agent needs to make the parts of its
// instance again: the runtime with its settings, and the volumes (Instance.Keep).

// errLeftConfiguration is why a job fails whose instance the configuration does not have any more.
var errLeftConfiguration = errors.New("the instance left the configuration of this host while its job was under way")

// instance finds the parts that act on the job's instance, also when the configuration
// does not have it any more. Before the first act of a job, and for its plan, the
// configuration alone counts: see configured. From the intent to hold the instance on,
// its runtime acts on that very instance, whichever instance has its name by now.
func (w *worker) instance(j *model.Job) (instance Instance, err error) {
	if len(j.Kept) > 0 && w.m.parts.Recall != nil {
		instance, err = w.m.parts.Recall(j.Instance, j.Kept)
	} else {
		instance, err = w.m.parts.Instance(j.Instance)
	}
	if err == nil && j.Identity != "" {
		instance.Runtime = instance.Runtime.Of(j.Identity)
	}
	return instance, err
}

// configured fails with ErrNotFound for a job whose instance the configuration does not have any
// more.
func (w *worker) configured(j *model.Job) error {
	if _, err := w.m.parts.Instance(j.Instance); errors.Is(err, model.ErrNotFound) {
		return fmt.Errorf("%w: %w", errLeftConfiguration, err)
	}
	return nil
}

// standing returns the bases whose snapshots stand. A base without a snapshot must not
// get into the journal: an earlier life, under other rules, may have removed the snapshot
// before it could say so. A snapshot that can't be looked at is removed with the others.
func (w *worker) standing(j *model.Job, kept []model.Base, stands func(model.Snapshot) (bool, error)) (still []model.Base) {
	for _, b := range kept {
		for _, s := range j.Snapshots {
			if s.Ref.Path != b.Ref.Path {
				continue
			}
			there, err := stands(s)
			if err != nil {
				w.m.parts.Observer.Lacked(j.Instance, j.ID, fmt.Sprintf("keep the base snapshot of volume %q", b.Volume), err)
			} else if there {
				still = append(still, b)
			}
		}
	}
	return still
}

// ofTenant is the job's instance as the configuration has it now; an
// error where the configuration has given the instance to another tenant
// since the command: neither tenant's bytes may get to the other.
func (w *worker) ofTenant(j *model.Job) (Instance, error) {
	instance, err := w.m.parts.Instance(j.Instance)
	if err == nil && instance.Tenant != j.Tenant {
		err = fmt.Errorf("the command is of tenant %q, and the configuration gives the instance to tenant %q by now; command it anew", j.Tenant, instance.Tenant)
	}
	return instance, err
}
