package main

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/internal/origin"
)

// volumeMarkJSON is the mark on a volume.
type volumeMarkJSON struct {
	Volume string `json:"volume"`
	// Mark is missing where there is none, and Why says why.
	Mark *origin.Mark `json:"mark,omitempty"`
	Why  string       `json:"why,omitempty"`
	// Own says that the mark was written on that very folder or file; else it is a copy.
	Own     bool `json:"own"`
	Removed bool `json:"removed"`
}

func (a *app) volumeMarkCommand() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "volume-mark PATH",
		Short: "Show the mark on a volume that says from which backup its content comes",
		Long: "volume-mark shows the mark that an agent has put on the folder or image file at PATH: from which backup its content comes, whose\n" +
			"volume it is, and whether it was written there or came along with a copy.\n\n" +
			"With --remove it takes the mark off. A backup then takes the content for whatever tenant and instance the configuration names, and a\n" +
			"prepare takes it for content of which nothing is known. Only root sees marks and removes them.",
		Example: "  holdfast volume-mark /srv/phones/0001/data\n  holdfast volume-mark --remove /srv/phones/0001/data",
		Args:    arguments("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := volumeMark(args[0], remove)
			if err != nil {
				return &failure{doing: "volume-mark " + name(args[0]), err: err}
			}
			if a.json {
				return a.document(found)
			}
			return a.printMark(found)
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the mark off")
	return cmd
}

func volumeMark(path string, remove bool) (*volumeMarkJSON, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	found := &volumeMarkJSON{Volume: path}
	mark, err := origin.Read(path)
	switch {
	case err == nil:
		at, err := origin.PlaceOf(path)
		if err != nil {
			return nil, err
		}
		found.Mark, found.Own = &mark, mark.At.Same(at)
	case errors.Is(err, origin.ErrNoMark), errors.Is(err, origin.ErrNotKept), errors.Is(err, origin.ErrDamaged):
		found.Why = err.Error()
	default:
		return nil, err
	}
	if remove && !errors.Is(err, origin.ErrNotKept) {
		if err := origin.Remove(path); err != nil {
			return nil, err
		}
		found.Removed = true
	}
	return found, nil
}

func (a *app) printMark(v *volumeMarkJSON) error {
	rows := [][]string{{"volume", v.Volume}}
	if m := v.Mark; m != nil {
		written := "on this very folder or file"
		if !v.Own {
			written = "on another one, of which this is a copy"
		}
		rows = append(rows, []string{"backup", m.Backup + ", number " + strconv.FormatUint(m.Seq, 10)}, []string{"instance", m.Instance},
			[]string{"name", m.Volume}, []string{"tenant", m.Tenant}, []string{"vault", m.Vault}, []string{"host", m.Host}, []string{"written", written})
	} else {
		rows = append(rows, []string{"mark", "none: " + v.Why})
	}
	if v.Removed {
		rows = append(rows, []string{"removed", "yes"})
	}
	return a.table(rows)
}
