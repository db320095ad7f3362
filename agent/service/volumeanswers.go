package service

import (
	"holdfast/agent/api"
	"holdfast/agent/config"
	"holdfast/agent/model"
)

// volumesOf tells a caller of the volumes of an instance.
func (s *service) volumesOf(c model.Caller, in *config.Instance) []api.Volume {
	list := make([]api.Volume, len(in.Volumes))
	for i, v := range in.Volumes {
		view := s.views.Last(in.ID, v.Name)
		if !c.SeesAll() {
			view.Means = s.words.forTenant(view.Means)
		}
		list[i] = api.Volume{Name: v.Name, Path: v.Path, Snapshot: v.Snapshot, Provider: view.Provider, Means: view.Means}
	}
	return list
}
