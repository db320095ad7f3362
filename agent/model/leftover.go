package model

import "time"

// Base is a base snapshot of one volume.
type Base struct {
	Instance string `json:"instance"`
	Volume   string `json:"volume"`
	Ref      Ref    `json:"ref"`
	// that was made of it, or restored to it; empty after a round of pre-copy
	Backup string `json:"backup,omitempty"`
	Ino    uint64 `json:"ino,omitempty"` // as Snapshot.Ino
	// the engine's id of its catalogue of this snapshot
	Catalogue string    `json:"catalogue"`
	Made      time.Time `json:"made"` // UTC, for people
	// MadeUp is when the base was made by the journal's clock, which its age is counted by.
	MadeUp time.Duration `json:"made_up"`
}

// Leftover is a thing that could not be removed yet. One of Ref and Place is set.
type Leftover struct {
	Instance string    `json:"instance,omitempty"`
	Job      string    `json:"job,omitempty"` // that has left it; "" where that is not known
	Ref      Ref       `json:"ref,omitzero"`  // of a snapshot
	Place    *Place    `json:"place,omitempty"`
	Since    time.Time `json:"since"` // UTC
	Error    string    `json:"error"` // of the last try
}

// Path is where it lies.
func (l *Leftover) Path() string {
	if l.Place != nil {
		return l.Place.Stage
	}
	return l.Ref.Path
}

// Key tells it from others: the mark of a frozen file system, say,
// has a path of another provider's form.
func (l *Leftover) Key() string { return l.Ref.Provider + "\x00" + l.Path() }
