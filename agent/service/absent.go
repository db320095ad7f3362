package service

import (
	"context"

	"holdfast/agent/engine"
	"holdfast/internal/contain"
)

// absent lists the instances whose storage is not here, and hung lists
// the instances whose storage does not answer. All are looked at
// together, so that storage that does not answer costs its time once.
func (s *service) absent(ctx context.Context, instances []*engine.Instance) (absent, hung []string) {
	missing := make([]error, len(instances))
	group, ctx := contain.WithContext(ctx)
	for i, in := range instances {
		group.Go(func() error {
			missing[i] = s.volumes.Restored(ctx, in)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		s.log.Error("the storage of instances could not be looked at", keyError, err.Error())
	}
	for i, in := range instances {
		switch {
		case missing[i] == nil:
			continue
		case engine.NoAnswer(missing[i]):
			hung = append(hung, in.Config().ID)
		default:
			absent = append(absent, in.Config().ID)
		}
		s.log.Warn("storage of an instance is not on this host", keyInstance, in.Config().ID, keyError, missing[i].Error())
	}
	return absent, hung
}
