package model

import "time"

// RuntimeState is a runtime driver's view of an instance.
type RuntimeState string

// The states of an instance.
const (
	IsRunning RuntimeState = "running"
	IsFrozen  RuntimeState = "frozen"  // exists, executes nothing
	IsStopped RuntimeState = "stopped" // powered down
	IsMissing RuntimeState = "missing" // the runtime does not know it
	// the driver can't tell; the journal is believed within one boot
	IsUnknown RuntimeState = "unknown"
)

// Sight is one look at an instance. Two sights that are the same, both
// with Proof, say that the instance did not execute between them.
type Sight struct {
	State RuntimeState `json:"state"`
	// ID is the runtime's own identity of the instance, which outlives a
	// change of its name and is never given twice; "" where there is none.
	ID string `json:"id,omitempty"`
	// Run is another text after each start of the instance; "" when the driver can't tell.
	Run string `json:"run,omitempty"`
	// Work is another text after each instruction that the instance has
	// executed; "" when it is not frozen, and when the driver can't tell.
	Work string `json:"work,omitempty"`
	// Proof says that the driver can tell an instance that
	// was left alone from an instance that ran in between.
	Proof bool `json:"proof,omitempty"`
	// Passing says that the runtime may forget the instance when it is powered down.
	Passing bool `json:"passing,omitempty"`
	// Killed says that the instance is stopped and did not end in its
	// own way, as far as the driver can tell.
	Killed bool `json:"killed,omitempty"`
}

// Same reports whether the instance is unchanged since the other sight, as far as the
// driver can tell. Where one sight lacks Work, Work does not count.
func (s Sight) Same(other Sight) bool {
	return s.State == other.State && s.ID == other.ID && s.Run == other.Run && (s.Work == other.Work || s.Work == "" || other.Work == "")
}

// MayGoDown tells whether somebody has decided that the instance is powered down once its report
// is acknowledged. Where the driver can't tell whether the instance ran since it was backed up,
// the agent does not decide that by itself: somebody who knows has to ask for the release.
func (j *Job) MayGoDown() bool {
	return j.ReleaseAsked || j.Policy == ReleaseByAgent && !j.Unproven()
}

// Unproven tells whether the job's instance is held by a driver that can't tell whether it
// ran since. An instance that nothing holds is none such: there is nothing to power down.
func (j *Job) Unproven() bool {
	return j.Hold && !j.HeldSince.IsZero() && !j.Held.Proof
}

// Enter notes when the job enters its state, for people and by the journal's clock.
func (j *Job) Enter(now time.Time, up time.Duration) {
	j.Entered[j.State] = now.UTC()
	if j.EnteredUp == nil {
		j.EnteredUp = map[State]time.Duration{}
	}
	j.EnteredUp[j.State] = up
}

// BeginHold notes when an instance begins to be held.
func (j *Job) BeginHold(now time.Time, up time.Duration) {
	j.HeldSince, j.HeldUntil = now.UTC(), time.Time{}
	j.HeldUp, j.HeldFor = up, 0
}

// EndHold notes that the instance is held no more.
func (j *Job) EndHold(now time.Time, up time.Duration) {
	j.HeldFor = j.HeldTime(up)
	j.Hold, j.HeldUntil = false, now.UTC()
}

// HeldTime is how long the instance has been held.
func (j *Job) HeldTime(up time.Duration) time.Duration {
	switch {
	case j.HeldSince.IsZero():
		return 0
	case !j.HeldUntil.IsZero():
		return j.HeldFor
	}
	return max(0, up-j.HeldUp)
}

// FreezeSeconds is how long the instance has not run for this job so far, in seconds. up is a
// reading of the journal's clock, and does not count once the instance runs again or is down.
func (j *Job) FreezeSeconds(up time.Duration) float64 { return j.HeldTime(up).Seconds() }

// Took is how long the job took from a state to another, by the
// journal's clock; 0 when the job did not enter both in that order.
func (j *Job) Took(from, to State) time.Duration {
	began, ok := j.EnteredUp[from]
	ended, over := j.EnteredUp[to]
	if !ok || !over {
		return 0
	}
	return max(0, ended-began)
}
