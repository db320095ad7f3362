package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"holdfast/agent/model"
)

// recalled are the instances of unfinished jobs that the configuration
// does not have any more, or has made something else of. They are made of
// the journal's records. The methods may be called from any goroutine.
type recalled struct {
	mu        sync.Mutex
	instances map[string]*Instance // by the journal's record
}

// remake makes the instance that the journal kept, once.
func (r *recalled) remake(kept json.RawMessage, host string) (*Instance, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if in := r.instances[string(kept)]; in != nil {
		return in, nil
	}
	before, err := decodeKept(kept, host)
	if err != nil {
		return nil, err
	}
	in, err := NewInstance(&before.Instance, before.Host, 0)
	if err != nil {
		return nil, fmt.Errorf("what the journal keeps of the instance: %w", err)
	}
	if r.instances == nil {
		r.instances = map[string]*Instance{}
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

// instanceRecords are the records of the journal that tell of the unfinished jobs of instances.
type instanceRecords interface {
	Active() ([]*model.Job, error)
	ByInstance(instance string) (active, latest *model.Job, err error)
}

// Instances are the instances of the configuration, and of unfinished jobs.
// It is for any goroutine.
type Instances struct {
	host     string // host_id of the configuration
	journal  instanceRecords
	list     []*Instance // of the configuration, in its order
	byID     map[string]*Instance
	recalled recalled
}

// NewInstances makes the set of no instance yet, of a host with that host_id.
func NewInstances(host string, journal instanceRecords) *Instances {
	return &Instances{host: host, journal: journal, byID: map[string]*Instance{}}
}

// Add adds an instance of the configuration. It is for the goroutine that opens the agent.
func (is *Instances) Add(in *Instance) {
	is.list = append(is.list, in)
	is.byID[in.cfg.ID] = in
}

// All are the instances of the configuration, in its order.
func (is *Instances) All() []*Instance { return is.list }

// Configured is the instance of the configuration with that id; nil where there is none.
func (is *Instances) Configured(id string) *Instance { return is.byID[id] }

// known is Configured, or an error that wraps model.ErrNotFound.
func (is *Instances) known(id string) (*Instance, error) {
	in := is.byID[id]
	if in == nil {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, model.ErrNotFound)
	}
	return in, nil
}

// Changed names the settings that an
// unfinished job does not follow; nil where there are none.
func (is *Instances) Changed(j *model.Job) error {
	in := is.byID[j.Instance]
	if in == nil {
		return nil // observe.TroubleUnconfigured
	}
	if list := Changes(j, in.cfg, is.host); len(list) > 0 {
		return errors.New(strings.Join(list, ", "))
	}
	return nil
}

// Close frees the drivers of the instances that were recalled.
func (is *Instances) Close() error { return is.recalled.close() }

// Recall finds the instance on which a job acts: by the
// configuration, whose mended commands and time-outs count, where
// that still names the same thing, and else by the journal's record.
func (is *Instances) Recall(id string, kept json.RawMessage) (*Instance, error) {
	in := is.byID[id]
	if in == nil && len(kept) == 0 {
		return nil, fmt.Errorf("instance %q is not in the configuration: %w", id, model.ErrNotFound)
	}
	if len(kept) == 0 {
		return in, nil
	}
	before, err := is.recalled.remake(kept, is.host)
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

// Found gives an instance of the configuration, or of an unfinished job, and whose it is: of the
// job's tenant while there is one. Nil: there is none.
func (is *Instances) Found(id string) (in *Instance, tenant string, err error) {
	active, _, err := is.journal.ByInstance(id)
	if err != nil {
		return nil, "", err
	}
	if active == nil {
		if in = is.byID[id]; in != nil {
			tenant = in.cfg.Tenant
		}
		return in, tenant, nil
	}
	in, err = is.Recall(id, active.Kept)
	if errors.Is(err, model.ErrNotFound) {
		return nil, "", nil
	}
	return in, active.Tenant, err
}

// Strays are the instances of unfinished jobs that the configuration does not have, of the tenants
// that sees tells.
func (is *Instances) Strays(sees func(tenant string) bool) (list []*Instance, err error) {
	active, err := is.journal.Active()
	if err != nil {
		return nil, err
	}
	for _, j := range active {
		if is.byID[j.Instance] != nil || !sees(j.Tenant) {
			continue
		}
		if in, err := is.Recall(j.Instance, j.Kept); err == nil {
			list = append(list, in)
		}
	}
	return list, nil
}
