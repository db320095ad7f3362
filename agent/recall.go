package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"holdfast/agent/config"
	"holdfast/agent/job"
	"holdfast/agent/model"
)

// recalled are the instances of unfinished jobs that the configuration
// does not have any more, or has made something else of. They are made of
// the journal's records. The methods may be called from any goroutine.
type recalled struct {
	mu        sync.Mutex
	instances map[string]*instance // by the journal's record
}

// keep is what of makes the instance again of.
func (in *instance) keep() json.RawMessage {
	b, err := json.Marshal(kept{Instance: *in.cfg, Host: in.host})
	if err != nil {
		return nil // plain data: can't happen
	}
	return b
}

// of makes the instance that the journal kept, once.
func (r *recalled) of(kept json.RawMessage, host string) (*instance, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if in := r.instances[string(kept)]; in != nil {
		return in, nil
	}
	before, err := decodeKept(kept, host)
	if err != nil {
		return nil, err
	}
	in, err := newInstance(&before.Instance, before.Host)
	if err != nil {
		return nil, fmt.Errorf("what the journal keeps of the instance: %w", err)
	}
	if r.instances == nil {
		r.instances = map[string]*instance{}
	}
	r.instances[string(kept)] = in
	return in, nil
}

func (r *recalled) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, in := range r.instances {
		errs = append(errs, in.runtime.Close())
	}
	r.instances = nil
	return errors.Join(errs...)
}

// recall is the job.Parts.Recall.
func (a *Agent) recall(id string, kept json.RawMessage) (job.Instance, error) {
	in, err := a.recallInstance(id, kept)
	if err != nil {
		return job.Instance{}, err
	}
	return a.partsOf(in), nil
}

// recallInstance finds the instance on which a job acts: by the
// configuration, whose mended commands and time-outs count, where
// that still names the same thing, and else by the journal's record.
func (a *Agent) recallInstance(id string, kept json.RawMessage) (*instance, error) {
	in := a.instances[id]
	if in == nil && len(kept) == 0 {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, model.ErrNotFound)
	}
	if len(kept) == 0 {
		return in, nil
	}
	before, err := a.recalled.of(kept, a.cfg.HostID)
	switch {
	case in == nil:
		return before, err
	case err != nil:
		return in, nil //nolint:nilerror // the configuration has it
	case sameThing(in.cfg.Runtime, before.cfg.Runtime):
		return in.withPlaces(before), nil
	}
	return before, nil
}

// sameThing tells whether two runtimes act on the same
// thing. Only the commands of exec know their own target.
func sameThing(a, b config.Runtime) bool {
	if a.Docker != nil && b.Docker != nil {
		return a.Docker.Host == b.Docker.Host && a.Docker.Container == b.Docker.Container
	}
	return a.Kind() == b.Kind()
}

// found gives an instance of the configuration, or of an unfinished job, and whose it is: of the
// job's tenant while there is one. Nil: there is none.
func (a *Agent) found(id string) (in *instance, tenant string, err error) {
	active, _, err := a.journal.ByInstance(id)
	if err != nil {
		return nil, "", err
	}
	if active == nil {
		if in = a.instances[id]; in != nil {
			tenant = in.cfg.Tenant
		}
		return in, tenant, nil
	}
	in, err = a.recallInstance(id, active.Kept)
	if errors.Is(err, model.ErrNotFound) {
		return nil, "", nil
	}
	return in, active.Tenant, err
}

// visible finds the instance for a caller.
func (s *service) visible(c model.Caller, id string) (*instance, error) {
	in, tenant, err := s.a.found(id)
	if err != nil {
		return nil, err
	}
	if in == nil || !c.Sees(tenant) {
		return nil, noInstance(c, id)
	}
	return in, nil
}

// strays are the instances of unfinished jobs that the configuration does not have.
func (a *Agent) strays(c model.Caller) (list []*instance, err error) {
	active, err := a.journal.Active()
	if err != nil {
		return nil, err
	}
	for _, j := range active {
		if a.instances[j.Instance] != nil || !c.Sees(j.Tenant) {
			continue
		}
		if in, err := a.recallInstance(j.Instance, j.Kept); err == nil {
			list = append(list, in)
		}
	}
	return list, nil
}

// warnOfStrays says at the start which unfinished jobs have instances that the configuration does
// not have any more.
func (a *Agent) warnOfStrays(active []*model.Job) {
	for _, j := range active {
		if a.instances[j.Instance] == nil {
			a.log.Warn("the instance of an unfinished job is not in the configuration any more; its job goes on by what the journal keeps of it: "+
				"holdfast resume or holdfast release ends a hold, and putting the instance back into the configuration does no harm",
				keyInstance, j.Instance, keyJob, j.ID, keyState, string(j.State), "held", j.Hold)
		}
	}
}
