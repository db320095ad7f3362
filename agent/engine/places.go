package engine

import (
	"fmt"
	"path/filepath"

	"holdfast/agent/model"
	"holdfast/internal/evidence"
	"holdfast/internal/location"
	"holdfast/internal/restore"
)

// steady fails where the path of a volume can be made to lead elsewhere.
func steady(path string) error {
	_, err := location.Strict(path)
	return err
}

// holderOf names the folder that holds a path, the same also after
// a reboot, and another where something else is mounted there.
func holderOf(path string) (string, error) {
	path = filepath.Dir(path)
	at, err := restore.Identify(path)
	if err != nil || at == "" {
		return "", err
	}
	return evidence.FileSystemOf(path) + " " + at, nil
}

// fits fails where the folder that holds a place is not the one
// that it was when the restore was planned, or can be made another.
func fits(p model.Place) error {
	for _, path := range []string{p.Target, p.Stage} {
		if err := steady(path); err != nil {
			return fmt.Errorf("volume %q: %w", p.Volume, err)
		}
	}
	now, err := holderOf(p.Stage)
	switch {
	case err != nil:
		return fmt.Errorf("volume %q: %w", p.Volume, err)
	case p.Holder != "" && now != p.Holder:
		return fmt.Errorf("volume %q: the folder of %s is not the one in which the restore began: something was mounted there or unmounted, or it was replaced; "+
			"bring the folder back", p.Volume, p.Target)
	}
	return nil
}
