package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/snapshot"
)

// leftoverJSON is a snapshot of this program that lies beside a volume, of whichever host and job.
type leftoverJSON struct {
	Path     string    `json:"path"`
	Provider string    `json:"provider"`
	Host     string    `json:"host"`
	Job      string    `json:"job"`
	Name     string    `json:"volume_name"`
	Made     time.Time `json:"made,omitzero"`
	Writable bool      `json:"writable,omitempty"`
	Removed  bool      `json:"removed,omitempty"`
}

// leftovers lists the snapshots of this program in the folder for snapshots
// of the volume, and removes the snapshots whose paths are given.
func (a *app) leftovers(ctx context.Context, path, dir string, remove []string) error {
	var err error
	for _, p := range append([]*string{&path}, pointers(remove, &dir)...) {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	found, err := snapshot.Find(ctx, snapshot.Request{Volume: path, Dir: dir})
	if err != nil {
		return err
	}
	for _, want := range remove {
		if !slices.ContainsFunc(found, func(f snapshot.Found) bool { return f.Path == want }) {
			return fmt.Errorf("%s is no snapshot that is listed here; --leftovers without --remove lists them", name(want))
		}
	}
	list := []leftoverJSON{}
	rows := [][]string{{"PATH", "PROVIDER", "HOST", "JOB", "VOLUME", "MADE", ""}}
	for _, f := range found {
		l := leftoverJSON{Path: f.Path, Provider: f.Provider, Host: f.Host, Job: f.Job, Name: f.Name, Made: f.Made.UTC(), Writable: f.Writable}
		if f.Made.IsZero() {
			l.Made = time.Time{}
		}
		state := ""
		if f.Writable {
			state = "was made writable"
		}
		if slices.Contains(remove, f.Path) {
			if err := snapshot.Drop(ctx, f); err != nil {
				return err
			}
			l.Removed, state = true, "removed"
		}
		made := "-"
		if !l.Made.IsZero() {
			made = stamp(l.Made)
		}
		list = append(list, l)
		rows = append(rows, []string{name(f.Path), f.Provider, f.Host, f.Job, f.Name, made, state})
	}
	if a.json {
		return a.document(map[string]any{"leftovers": list})
	}
	if len(found) == 0 {
		a.say("no snapshots of Holdfast lie there")
		return nil
	}
	if err := a.table(rows); err != nil {
		return err
	}
	if len(remove) == 0 {
		a.say("a running agent may need those of its own host id (holdfast status, holdfast jobs); --remove PATH removes one")
	}
	return nil
}

func pointers(list []string, more ...*string) []*string {
	for i := range list {
		more = append(more, &list[i])
	}
	return more
}
