package journal

import (
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"
)

// checkVersion is the one rule for versions of a journal. A file without a bucket is a new journal.
// A version is a decimal number without a sign and without leading zeros: a number above
// journalVersion is ErrNewer, however many digits the number has, and a number below journalVersion
// is ErrOlder. A file with buckets and without such a number is damaged. Nothing is written.
func checkVersion(tx *bbolt.Tx, path string) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return fmt.Errorf("journal %s: the bucket %q is there, and no version: the file %w", path, k, errDamaged)
		}
		return nil
	}
	text := string(meta.Get(keyVersion))
	if text == "" || text[0] == '0' || strings.Trim(text, "0123456789") != "" {
		return fmt.Errorf("journal %s: version %q is no version: the file %w", path, text, errDamaged)
	}
	v, err := strconv.Atoi(text)
	switch {
	case err != nil || v > journalVersion: // an error is a number too large for an int
		return fmt.Errorf("journal %s has version %.40s, this program knows %d: install the later program again and start that program; to go back to this program, "+
			"let the later program end its jobs (`holdfast drain --wait`), stop that program, and move the file to another place: %w", path, text, journalVersion, ErrNewer)
	case v < journalVersion:
		return fmt.Errorf("journal %s has version %d, this program knows %d: let the earlier program end its jobs (`holdfast drain --wait`), "+
			"stop that program, and remove the file: %w", path, v, journalVersion, ErrOlder)
	}
	return nil
}
