package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/agent/config"
	"holdfast/agent/model"
)

// A job acts on the instance as it was when the job began: by the host id, the
// tenant, and the volumes that the journal keeps. A later configuration counts
// from the next job on. A difference is reported at the start, by check-config
// and as a trouble, since operators expect a configuration to count.

// kept is the journal's record of an instance.
type kept struct {
	config.Instance
	Host string `json:"host_id"`
}

func decodeKept(text json.RawMessage, host string) (k kept, err error) {
	if err := json.Unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("what the journal keeps of the instance can't be read: %w", err)
	}
	k.Host = cmp.Or(k.Host, host)
	return k, nil
}

// withPlaces is the instance of the configuration, whose driver counts,
// with the host id and the volumes that an unfinished job began with.
func (in *instance) withPlaces(before *instance) *instance {
	if in.host == before.host && slices.EqualFunc(in.cfg.Volumes, before.cfg.Volumes, func(a, b config.Volume) bool { return a.Name == b.Name && a.Path == b.Path }) {
		return in
	}
	cfg := *in.cfg
	cfg.Tenant, cfg.Volumes = before.cfg.Tenant, before.cfg.Volumes
	return &instance{cfg: &cfg, index: in.index, host: before.host, runtime: in.runtime}
}

// changes tells in words how a configuration of the instance of an unfinished job differs from
// the job's own record; nothing where the journal keeps no record, or the job has not begun.
func changes(j *model.Job, now *config.Instance, host string) (list []string) {
	if len(j.Kept) == 0 {
		return nil
	}
	before, err := decodeKept(j.Kept, host)
	if err != nil {
		return nil
	}
	add := func(what, was, is string) {
		if was != is {
			list = append(list, fmt.Sprintf("%s was %q and is %q", what, was, is))
		}
	}
	add("host_id", before.Host, host)
	add("tenant", j.Tenant, now.Tenant)
	paths := func(volumes []config.Volume) map[string]string {
		m := map[string]string{}
		for _, v := range volumes {
			m[v.Name] = v.Path
		}
		return m
	}
	was, is := paths(before.Volumes), paths(now.Volumes)
	for _, v := range before.Volumes {
		path, there := is[v.Name]
		if !there {
			list = append(list, fmt.Sprintf("volume %q is not there any more", v.Name))
			continue
		}
		add(fmt.Sprintf("the path of volume %q", v.Name), v.Path, path)
	}
	for _, v := range now.Volumes {
		if _, there := was[v.Name]; !there {
			list = append(list, fmt.Sprintf("volume %q is new", v.Name))
		}
	}
	if !sameThing(now.Runtime, before.Runtime) {
		list = append(list, "the runtime or its container is another one")
	}
	return list
}

// changedConfiguration names the settings that an
// unfinished job does not follow; nil where there are none.
func (a *Agent) changedConfiguration(j *model.Job) error {
	in := a.instances[j.Instance]
	if in == nil {
		return nil // troubleUnconfigured
	}
	if list := changes(j, in.cfg, a.cfg.HostID); len(list) > 0 {
		return errors.New(strings.Join(list, ", "))
	}
	return nil
}

// warnOfChanges says at the start which unfinished jobs
// go by another configuration than the present one.
func (a *Agent) warnOfChanges(active []*model.Job) {
	for _, j := range active {
		if err := a.changedConfiguration(j); err != nil {
			a.log.Warn("the configuration of an instance changed while its job is unfinished; the job goes on by what the journal keeps, "+
				"and the change counts from the next job on: end the job (holdfast resume, holdfast release), or take the change back",
				keyInstance, j.Instance, keyJob, j.ID, keyState, string(j.State), "held", j.Hold, keyReason, err.Error())
		}
	}
}
