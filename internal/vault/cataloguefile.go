package vault

import (
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/vault/index"
)

// A folder of catalogues has one folder for each vault, by its fingerprint, with
// one file for each volume of each instance. All of it may be deleted at any time.

// CatalogueFile is a catalogue that is being written. It takes the
// place of the volume's last one with Keep, or is gone with Close.
type CatalogueFile struct {
	*CatalogueWriter
	path string
	tmp  *os.File
}

// unfinished begins the name of a catalogue that is being written.
const unfinished = index.Unfinished

func (v *Vault) cataloguePath(dir, instance, volume string) string {
	return filepath.Join(dir, v.Fingerprint(), instance+"+"+volume)
}

// BeginCatalogue begins the catalogue of a volume, whose rows rest
// on e, in a folder of catalogues. Close is due in any case.
func (v *Vault) BeginCatalogue(dir, instance, volume string, e Evidence) (*CatalogueFile, error) {
	c := &CatalogueFile{path: v.cataloguePath(dir, instance, volume)}
	in := filepath.Dir(c.path)
	if err := os.MkdirAll(in, 0o700); err != nil {
		return nil, err
	}
	// An earlier run that was killed left its own behind, if any. Should another
	// backup of this volume be running, it keeps no catalogue, and no more happens.
	beginning := unfinished + filepath.Base(c.path) + "-"
	removeUnfinished(in, beginning)
	var err error
	if c.tmp, err = os.CreateTemp(in, beginning); err != nil {
		return nil, err
	}
	if c.CatalogueWriter, err = v.NewCatalogue(c.tmp, e); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Keep ends the catalogue and puts it into the place of the last one. When that
// fails, the last one stays, which says of no file that it is unchanged unless it is.
func (c *CatalogueFile) Keep() error {
	if err := c.CatalogueWriter.Close(); err != nil {
		return err
	}
	return os.Rename(c.tmp.Name(), c.path)
}

// Close frees what Keep left. It is idempotent.
func (c *CatalogueFile) Close() {
	_ = c.tmp.Close()
	_ = os.Remove(c.tmp.Name()) // gone when it was kept
}

// LastCatalogue opens the catalogue that was kept last of a volume:
// fs.ErrNotExist when there is none. The file is the caller's to close.
func (v *Vault) LastCatalogue(dir, instance, volume string) (*CatalogueReader, *os.File, error) {
	f, err := os.Open(v.cataloguePath(dir, instance, volume))
	if err != nil {
		return nil, nil, err
	}
	r, err := v.OpenCatalogue(f)
	if err != nil {
		_ = f.Close() // only read
		return nil, nil, err
	}
	return r, f, nil
}

// HasCatalogue tells whether LastCatalogue would find one, sound or not.
func (v *Vault) HasCatalogue(dir, instance, volume string) bool {
	_, err := os.Stat(v.cataloguePath(dir, instance, volume))
	return err == nil
}

// SweepCatalogues removes the files that killed backups left in a
// folder of catalogues. No backup may be running that uses the folder.
// It is best effort: a file that stays costs room and nothing else.
func SweepCatalogues(dir string) {
	vaults, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, v := range vaults {
		removeUnfinished(filepath.Join(dir, v.Name()), unfinished)
	}
}

func removeUnfinished(dir, beginning string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, n := range names {
		// What CreateTemp adds has no "-": volume "data" leaves alone what volume "data-2" has.
		if rest, ok := strings.CutPrefix(n.Name(), beginning); ok && (beginning == unfinished || !strings.Contains(rest, "-")) {
			_ = os.Remove(filepath.Join(dir, n.Name()))
		}
	}
}
