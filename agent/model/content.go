package model

import (
	"fmt"
	"slices"
	"time"
)

// Content says which backup the volumes of an instance on this host hold, or
// have come from: the last that was made of them or restored to them here.
type Content struct {
	Backup  string    `json:"backup_id"`
	Seq     uint64    `json:"sequence"` // orders the backups of an instance
	Created time.Time `json:"created"`  // for people
	Vault   string    `json:"vault,omitempty"`
	Tenant  string    `json:"tenant,omitempty"` // whose backup it is
	// Released says that the instance was powered down on this backup, so that another host may
	// have it: what changed on the volumes afterwards is not the instance's.
	Released bool `json:"released,omitempty"`
	// Volumes has, by name, what identifies the content of each volume. Of a backup that is only
	// named by the vault it has Kind and Entries.
	Volumes map[string]Root `json:"volumes,omitempty"`
	// Tried are ids of backups that were made of the volumes since, and
	// of which nobody heard whether they are stored, the oldest first.
	Tried []string `json:"tried,omitempty"`
	// Doubt says why the content of the volumes is not known; "" where it is known
	Doubt string `json:"doubt,omitempty"`
}

// Root identifies the content of one volume: which folder or file the volume is, and its content.
type Root struct {
	Kind string `json:"kind,omitempty"` // KindFolder or KindImage; "" is not known
	// Entries counts the entries of the volume in the backup that are no folders, or the
	// bytes of an image. 0 says that the volume is empty in the backup, if Kind is known.
	Entries uint64 `json:"entries"`
	// Size and Modified are the size (bytes) and the time (ns since 1970)
	// of an image file when it was backed up or restored; 0 is not known.
	Size     int64 `json:"size,omitempty"`
	Modified int64 `json:"modified,omitempty"`
	// FileSystem and Handle tell which folder or file it is, also after a reboot; opaque here.
	FileSystem string `json:"file_system,omitempty"`
	Handle     string `json:"handle,omitempty"`
	// Catalogue is the id of the engine's catalogue of the backup's entries on this host.
	Catalogue string `json:"catalogue,omitempty"`
	// Marked says that the volume has borne the mark of this backup. Else a mark
	// that is missing, or of an earlier backup, says nothing.
	Marked bool `json:"marked,omitempty"`
}

// The kinds of volumes.
const (
	KindFolder = "folder"
	KindImage  = "image"
)

// AcceptedLoss is an operator's word that backups of an instance, which this
// host knows, are gone from the store for good. Without that word a store
// that lacks a backup counts as set back, and nothing is restored from it.
type AcceptedLoss struct {
	Lost   []Content `json:"lost"`   // the backups that this host knows and the store lacks
	Newest Content   `json:"newest"` // that the store had then; zero: the store had no backup
	By     string    `json:"by"`     // who accepted the loss, for people
	At     time.Time `json:"at"`     // UTC
}

// Covers tells whether the loss of a backup is accepted while the newest
// backup in the store is another one. A store that has lost more since, so
// that its newest backup is older than the accepted one, is not covered.
func (a *AcceptedLoss) Covers(lost, newest Content) bool {
	return newest.Seq >= a.Newest.Seq && slices.ContainsFunc(a.Lost, func(c Content) bool { return c.Backup == lost.Backup && lost.Backup != "" })
}

// Fork is one of the other newest backups of an
// instance, from which a stored backup does not descend.
type Fork struct {
	Backup string `json:"backup"`
	// Host made the backup; "" where its manifest could not be read.
	Host string `json:"host,omitempty"`
}

// ForkDecision says which backup of a forked instance is the newest one.
type ForkDecision struct {
	Backup string `json:"backup"`
	By     string `json:"by"` // who decided, in words
	// Host is where it was decided; "" is this host.
	Host string `json:"host,omitempty"`
	// Asked is the backup for which this host was to decide
	// when it found that Backup was accepted before; else "".
	Asked string `json:"asked,omitempty"`
	// Again says that an operator decides again, over an earlier decision.
	Again bool `json:"again,omitempty"`
	// Stored says that the vault has the decision, so that all hosts know of it.
	Stored bool `json:"stored,omitempty"`
}

// Where says on which other host it was decided; "" for this one.
func (d ForkDecision) Where() string {
	if d.Host == "" {
		return ""
	}
	return " on host " + d.Host
}

// Forked tells whether the job's stored backup makes a fork.
func (j *Job) Forked() bool { return j.Result != nil && len(j.Result.Fork) > 0 }

// ForkOpen tells whether the job's backup makes a fork, and the vault has no decision about it.
func (j *Job) ForkOpen() bool { return j.Forked() && !j.Fork.Stored }

// ForkUndecided tells whether nobody has decided about the fork of the job yet.
func (j *Job) ForkUndecided() bool { return j.Forked() && j.Fork.Backup == "" }

// ForkWords says for people which backup counts, where another host, or another decision, has
// settled the fork of the job; "" where this host decided as it was asked.
func (j *Job) ForkWords() string {
	d := j.Fork
	switch {
	case !d.Stored || d.Host == "" && d.Asked == "":
		return ""
	case d.Asked != "":
		return fmt.Sprintf("backup %s counts, by %s%s, which was decided before %s was asked for here", d.Backup, d.By, d.Where(), d.Asked)
	}
	return fmt.Sprintf("backup %s counts, by %s%s", d.Backup, d.By, d.Where())
}
