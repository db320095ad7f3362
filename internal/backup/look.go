package backup

import (
	"context"
	"errors"

	"holdfast/internal/backup/known"
)

// Look tells, before anything is read, why Run can't make a backup of the sources:
// an *UnmountedError. It reads no content of files. It looks at Sources, Vault,
// Instance, Host and CatalogueDir. A fact that it can't find out is no error.
func Look(ctx context.Context, o Options) error {
	h := known.NewHistory(ctx, known.Facts{Vault: o.Vault, Instance: o.Instance, Host: o.Host, Catalogues: o.CatalogueDir})
	err := h.Mounted(ctx, volumesOf(o.Sources))
	if _, ok := errors.AsType[*known.UnmountedError](err); ok {
		return err
	}
	return context.Cause(ctx)
}
