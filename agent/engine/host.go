package engine

import (
	"path/filepath"

	"holdfast/internal/hostid"
)

// Self is this host as vaults, marks and receipts name it.
type Self struct {
	Host     string // host_id of the configuration
	Identity hostid.Identity
	Version  string // of the agent's build
}

// CataloguesFolder is the name of the folder with the catalogues in the state folder.
const CataloguesFolder = "catalogues"

// Catalogues is the folder by which backups know unchanged files; it may be deleted at any time.
func Catalogues(stateDir string) string { return filepath.Join(stateDir, CataloguesFolder) }
