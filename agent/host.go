package agent

import (
	"path/filepath"

	"holdfast/internal/hostid"
)

// self is this host as vaults, marks and receipts name it.
type self struct {
	host     string // host_id of the configuration
	identity hostid.Identity
	version  string // of the agent's build
}

// cataloguesFolder is the name of the folder with the catalogues in the state folder.
const cataloguesFolder = "catalogues"

// catalogues is the folder by which backups know unchanged files; it may be deleted at any time.
func catalogues(stateDir string) string { return filepath.Join(stateDir, cataloguesFolder) }
