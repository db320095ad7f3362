package agent

import (
	"context"
	"time"

	"holdfast/agent/engine"
)

// ShowAtOnce has troubles shown at once that are shown after some time only.
func (a *Agent) ShowAtOnce() { a.hasty.Store(true) }

// LookForCopies looks at once at all vaults that are open.
func (a *Agent) LookForCopies(ctx context.Context) { a.looks.Round(ctx) }

// LearnForks looks at once whether other hosts decided forks.
func (a *Agent) LearnForks(ctx context.Context) { a.learnForks(ctx) }

// PassClaims looks at once at the claims in the vaults.
func (a *Agent) PassClaims(ctx context.Context) {
	a.engine.Claims.PassAll(ctx)
}

// SetEngineTime changes how long an engine gets to end.
func SetEngineTime(d time.Duration) (restore func()) {
	before := engine.EngineTime
	engine.EngineTime = d
	return func() { engine.EngineTime = before }
}
