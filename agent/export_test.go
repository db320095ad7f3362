package agent

import "context"

// ShowAtOnce has troubles shown at once that are shown after some time only.
func (a *Agent) ShowAtOnce() { a.hasty.Store(true) }

// LookForCopies looks at once at all vaults that are open.
func (a *Agent) LookForCopies(ctx context.Context) { a.looks.round(ctx) }

// LearnForks looks at once whether other hosts decided forks.
func (a *Agent) LearnForks(ctx context.Context) { a.learnForks(ctx) }

// PassClaims looks at once at the claims in the vaults.
func (a *Agent) PassClaims(ctx context.Context) {
	a.engine.claims.passAll(ctx)
}
