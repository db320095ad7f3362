package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/snapshot"
)

// checkVolumeJSON describes the snapshot that a backup of a volume would make.
type checkVolumeJSON struct {
	Summary  string        `json:"summary"` // the way of reading, its costs, and a better way where there is one
	Better   string        `json:"better,omitempty"`
	Volume   string        `json:"volume"`
	Kind     snapshot.Kind `json:"kind"`
	Provider string        `json:"provider"`
	Reason   string        `json:"reason"`
	// the volume itself is read, and its instance held meanwhile
	InPlace bool `json:"in_place"`
	snapshot.Costs
	// where snapshots take their space; 0 of 0 where that is not known
	FreeBytes  int64               `json:"free_bytes"`
	TotalBytes int64               `json:"total_bytes"`
	TrySeconds *float64            `json:"try_seconds,omitempty"`
	Others     []otherProviderJSON `json:"others"`
}

// otherProviderJSON is a provider that was not chosen.
type otherProviderJSON struct {
	Provider string `json:"provider"`
	Fits     bool   `json:"fits"`
	Reason   string `json:"reason"`
}

func (a *app) checkVolumeCommand() *cobra.Command {
	var want, dir string
	var try, leftovers bool
	var remove []string
	cmd := &cobra.Command{
		Use:   "check-volume PATH",
		Short: "Tell how a snapshot of a folder, image or block device would be made",
		Long: "check-volume prints which provider would make a snapshot of PATH, why that one, what it costs and what it\n" +
			"can't do, and how the next backup would find what changed. It changes nothing; with --try it makes a\n" +
			"snapshot, removes it, and tells how long that took.\n\n" +
			"Without privileges it tells what the caller could use, which is less than what an agent can.",
		Example: "  holdfast check-volume /srv/phones/0001/data\n  holdfast check-volume --try /srv/phones/0001/disk.img",
		Args:    arguments("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if want != snapshot.NameAuto && !slices.Contains(snapshot.Names(), want) {
				return &usageError{
					msg:     fmt.Sprintf("--provider: must be %s or %s, got %q", snapshot.NameAuto, strings.Join(snapshot.Names(), ", "), want),
					command: cmd.CommandPath(),
				}
			}
			if len(remove) > 0 && !leftovers {
				return &usageError{msg: "--remove needs --leftovers", command: cmd.CommandPath()}
			}
			if leftovers {
				if err := a.leftovers(cmd.Context(), args[0], dir, remove); err != nil {
					return &failure{doing: "leftovers beside " + name(args[0]), err: err}
				}
				return nil
			}
			found, err := checkVolume(cmd.Context(), args[0], dir, want, try)
			if err != nil {
				return &failure{doing: "check-volume " + name(args[0]), err: err}
			}
			if a.json {
				return a.document(found)
			}
			return a.printVolume(found)
		},
	}
	cmd.Flags().StringVar(&want, "provider", snapshot.NameAuto, "look at this `NAME` instead of choosing: "+strings.Join(snapshot.Names(), ", "))
	cmd.Flags().StringVar(&dir, "dir", "", "`FOLDER` for the snapshots, as snapshot_dir in the configuration (default beside the volume)")
	cmd.Flags().BoolVar(&try, "try", false, "make a snapshot, remove it, and tell how long it took")
	cmd.Flags().BoolVar(&leftovers, "leftovers", false, "list the snapshots of Holdfast where those of PATH go, of any host and job, also such as were made writable")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "with --leftovers: remove the snapshot at this `PATH` of the list; may be repeated")
	return cmd
}

func checkVolume(ctx context.Context, path, dir, want string, try bool) (*checkVolumeJSON, error) {
	var err error
	for _, p := range []*string{&path, &dir} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	req := snapshot.Request{Volume: path, Dir: dir}
	provider, _, err := snapshot.Detect(ctx, req, want)
	if err != nil {
		return nil, err
	}
	reason, err := provider.Fits(ctx, req)
	if err != nil {
		return nil, err
	}
	found := &checkVolumeJSON{Volume: path, Provider: provider.Name(), Reason: reason, InPlace: provider.InPlace()}
	if found.Kind, err = snapshot.KindOf(path); err != nil {
		return nil, err
	}
	found.Costs = provider.Costs(found.Kind)
	found.Summary = "a " + found.Provider + " snapshot is read; the instance is held " + found.Hold
	if found.InPlace {
		found.Summary = "it is read in place (" + found.Provider + "); the instance is held " + found.Hold
		if found.Better = snapshot.Advice(ctx, req); found.Better != "" {
			found.Summary += ". Better: " + found.Better
		}
	}
	if found.FreeBytes, found.TotalBytes, err = provider.Room(ctx, req); err != nil {
		return nil, err
	}
	for _, n := range snapshot.Names() {
		if n == provider.Name() {
			continue
		}
		other, err := snapshot.ByName(n)
		if err != nil {
			return nil, err
		}
		why, err := other.Fits(ctx, req)
		if err != nil {
			why = snapshot.Reason(err)
		}
		found.Others = append(found.Others, otherProviderJSON{n, err == nil, why})
	}
	if try {
		took, err := tryVolume(ctx, provider, req)
		if err != nil {
			return nil, err
		}
		found.TrySeconds = &took
	}
	return found, nil
}

// tryVolume makes a view and removes it; it gives the seconds that the making took.
func tryVolume(ctx context.Context, provider snapshot.Provider, req snapshot.Request) (took float64, err error) {
	req.Host, req.Job, req.Name = snapshotHost(), "pid-"+strconv.Itoa(os.Getpid()), volumeName
	start := time.Now()
	view, err := provider.Create(ctx, req)
	if err != nil {
		return 0, err
	}
	took = time.Since(start).Seconds()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return took, provider.Remove(ctx, view.Ref)
}

func (a *app) printVolume(v *checkVolumeJSON) error {
	changes := v.Changes
	if changes == "" {
		changes = "not by the storage"
	}
	space := v.Space
	if v.TotalBytes > 0 {
		space += fmt.Sprintf("; %s of %s free", size(v.FreeBytes), size(v.TotalBytes))
	}
	rows := [][]string{
		{"summary", v.Summary},
		{"volume", fmt.Sprintf("%s (%s)", v.Volume, v.Kind)},
		{"provider", v.Provider},
		{"because", v.Reason},
		{"held", v.Hold},
	}
	if v.TrySeconds != nil {
		rows = append(rows, []string{"tried", fmt.Sprintf("%.1f ms", *v.TrySeconds*1000)})
	}
	rows = append(rows, []string{"space", space}, []string{"changes", changes})
	for _, l := range v.Limits {
		rows = append(rows, []string{"limit", l})
	}
	for _, o := range v.Others {
		word := "not"
		if o.Fits {
			word = "or"
		}
		rows = append(rows, []string{word, o.Provider + ": " + o.Reason})
	}
	return a.table(rows)
}
