package job

import (
	"context"
	"fmt"

	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// Origins tells from which backup the volumes of an instance came where the journal does not know.
// A Restorer that is none tells nothing.
type Origins interface {
	// ByMarks returns the backup from which the content of all volumes came, by the marks on them
	// and by a comparison; the zero Content where any volume leaves that open, and where known,
	// the journal's knowledge, is as new. Tried has the newer ones of known.Tried.
	ByMarks(ctx context.Context, instance, tenant string, known model.Content) (model.Content, error)
}

// recallContent completes the journal before a backup, which names the journal's content as its
// parent: after a journal was lost, or set back, the marks on the volumes know more. Without that
// the backup would make a fork with the last backup of this very host. Where nothing tells the
// content for sure, the journal stays as it is, and the fork is seen.
func (w *worker) recallContent(ctx context.Context, j *model.Job) error {
	origins, ok := w.m.parts.Restorer.(Origins)
	if !ok {
		return nil
	}
	known, err := w.m.journal.Content(j.Instance)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	var found model.Content
	err = contain.Call(func() (err error) { found, err = origins.ByMarks(ctx, j.Instance, j.Tenant, known); return err })
	switch {
	case err != nil:
		w.m.parts.Observer.Lacked(j.Instance, j.ID, "tell by the marks on the volumes from which backup they came", err)
		return nil
	case found.Backup == "" || known.Backup != "" && found.Seq <= known.Seq:
		return nil
	}
	return w.m.journal.RecallContent(j.Instance, known.Backup, found)
}
