package backup

import (
	"context"

	"holdfast/internal/contain"
	"holdfast/internal/vault"
)

// flow makes the recipe of a volume whose units feed sends.
func (p *pipeline) flow(ctx context.Context, rec *vault.RecipeWriter, vol vault.Volume, feed func(context.Context) error) (vault.Volume, error) {
	recorder := &recorder{p: p, recipe: rec, volume: &vol}
	g, gctx := contain.WithContext(ctx)
	wctx, end := context.WithCancelCause(gctx)
	defer end(errEnded)
	g.Go(func() error {
		defer close(p.toRecipe)
		defer close(p.toWorkers)
		return feed(gctx)
	})
	g.Go(func() error { return p.work(wctx, true) })
	for range p.o.Pool.lendable {
		g.Go(func() error { return p.work(wctx, false) })
	}
	g.Go(func() error {
		defer end(errEnded) // nobody needs help any more
		return recorder.record(gctx)
	})
	if err := g.Wait(); err != nil {
		return vault.Volume{}, err
	}
	var err error
	vol.Lists, err = rec.Finish()
	vol.Stats = rec.Stats()
	return vol, err
}
