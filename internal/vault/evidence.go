package vault

import (
	"time"

	"holdfast/internal/evidence"
	"holdfast/internal/tree"
)

// Evidence names the file system of the rows of a catalogue, or of stat pages,
// and tells for how long and up to which time of change a file with the same
// metadata has the same content. See "On what it rests" in FORMAT.md.
type Evidence struct {
	// FileSystem is the volume's, as evidence.FileSystem names it.
	FileSystem string
	// Mounted is the mount that was looked at, as evidence.Mount names
	// it. The rows are evidence only while it stands; "": never.
	Mounted string
	// Clock is how far the wall clock was ahead of the time since the
	// boot when the rows were begun.
	Clock time.Duration
	// Young is the wall time from which on a time of change is no
	// evidence: a later change may show the same.
	Young time.Time
}

// Evidence returns the evidence behind the stat pages of the volume.
func (v *Volume) Evidence() Evidence {
	return Evidence{FileSystem: v.FileSystem, Mounted: v.Mounted, Clock: time.Duration(v.Clock), Young: time.Unix(0, v.Young)}
}

// SetEvidence notes it.
func (v *Volume) SetEvidence(e Evidence) {
	v.FileSystem, v.Mounted, v.Clock, v.Young = e.FileSystem, e.Mounted, int64(e.Clock), e.Young.UnixNano()
}

// Holds tells whether the rows are evidence about the file system that is mounted as mounted.
func (e Evidence) Holds(mounted string) bool { return e.Mounted != "" && e.Mounted == mounted }

// Until returns the time of change from which on the rows are no evidence, on a clock that
// is ahead of the time since the boot by clock. A clock that was set back by an hour shows
// every time of the last hour again, so a change may have the time of an earlier one.
// Whatever changed after the rows were begun has a time from Young less that hour on.
func (e Evidence) Until(clock time.Duration) tree.Time {
	young := evidence.Earliest(e.Young, e.Clock, clock)
	return tree.Time{Sec: young.Unix(), Nsec: uint32(young.Nanosecond())}
}
