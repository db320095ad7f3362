package vault

import (
	"context"
	"time"
)

// salvagePatience is how long a writer that gives up tries to store its rows.
const salvagePatience = 10 * time.Second

// salvage makes the arrived packs of an aborted writer known, so that the next
// writer does not send them again. A caller that has journalled the packs' ids
// takes the packs up with Resume and needs no salvage. It is best effort:
// packs that no segment lists do no harm, and RebuildIndex finds them.
func (w *Writer) salvage() {
	if w.opts.Intent != nil || len(w.packs) == 0 {
		return
	}
	arrived := make(map[PackID]bool, len(w.packs))
	for _, p := range w.packs {
		arrived[p.ID] = true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), salvagePatience)
	defer cancel()
	_ = w.idx.StoreOf(ctx, arrived)
}
