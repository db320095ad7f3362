package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"holdfast/internal/tree"
)

// A stat page stands beside a page of a recipe and has, for each of its files,
// the inode and the time of the last change as the backup saw them. A restore
// has no use for it. The next backup takes it, with the page, for the catalogue
// that its host does not have. See FORMAT.md for the bytes and the reasons.

// ErrNoStats says that a backup was stored without stat pages.
var ErrNoStats = errors.New("backup has no stat pages")

var errStatPage = errors.New("stat page does not fit its page")

// statted says whether a stat page has a row for the item: only of these does a backup ask whether
// they changed. Empty files are among them, for their flags, which it would have to open them for.
func statted(it *Item) bool {
	return it.Kind == tree.File && !it.Continued && !it.HasLinkTo
}

// appendStats appends the stat page of those items: how many rows there are, then
// three columns, each number as the difference to the row before, since neighbours
// in a folder were often made one after the other. An inode of 0 has no time.
func appendStats(b []byte, items []Item) []byte {
	rows := make([]*Item, 0, len(items))
	for i := range items {
		if statted(&items[i]) {
			rows = append(rows, &items[i])
		}
	}
	b = binary.AppendUvarint(b, uint64(len(rows)))
	known := rows[:0:0]
	ino := uint64(0)
	for _, it := range rows {
		b = binary.AppendVarint(b, int64(it.Ino-ino))
		if it.Ino != 0 {
			ino = it.Ino
			known = append(known, it)
		}
	}
	sec := int64(0)
	for _, it := range known {
		b = binary.AppendVarint(b, it.Ctime.Sec-sec)
		sec = it.Ctime.Sec
	}
	nsec := int64(0)
	for _, it := range known {
		b = binary.AppendVarint(b, int64(it.Ctime.Nsec)-nsec)
		nsec = int64(it.Ctime.Nsec)
	}
	return b
}

// setStats sets Ino and Ctime of items from their stat page.
func setStats(b []byte, items []Item) error {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(items)) {
		return errStatPage
	}
	b = b[k:]
	fits := true
	next := func() int64 {
		x, k := binary.Varint(b)
		if k <= 0 {
			fits = false
			return 0
		}
		b = b[k:]
		return x
	}
	known := make([]*Item, 0, n)
	ino := uint64(0)
	for i := range items {
		it := &items[i]
		if !statted(it) {
			continue
		}
		n--
		if it.Ino = ino + uint64(next()); it.Ino != 0 {
			ino = it.Ino
			known = append(known, it)
		}
	}
	sec := int64(0)
	for _, it := range known {
		sec += next()
		it.Ctime.Sec = sec
	}
	nsec := int64(0)
	for _, it := range known {
		if nsec += next(); nsec < 0 || nsec >= 1e9 {
			fits = false
			break
		}
		it.Ctime.Nsec = uint32(nsec)
	}
	if !fits || n != 0 || len(b) > 0 {
		return errStatPage
	}
	return nil
}

// StoredCatalogue yields the items of a volume's recipe, in order, a page at a time, with Ino
// and Ctime from its stat pages: 0 where a later change may not show in the time of change.
// The last pair may be an error: ErrNoStats, ErrCorrupt, ErrNewer, or the store's error.
func (v *Vault) StoredCatalogue(ctx context.Context, vol *Volume) iter.Seq2[[]Item, error] {
	return func(yield func([]Item, error) bool) {
		var items []Item
		err := v.storedCatalogue(ctx, vol, func(i int, ref PageRef, plain []byte) (err error) {
			if i%2 == 0 {
				items, err = v.decodePage(plain)
			} else if err = setStats(plain, items); err == nil && !yield(items, nil) {
				return errEnough
			}
			if err != nil {
				return v.badMeta(ref, err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// errEnough ends a reading whose caller wants no more.
var errEnough = errors.New("nobody wants more pages")

// storedCatalogue calls each with a page, its stat page, the next page and so on.
func (v *Vault) storedCatalogue(ctx context.Context, vol *Volume, each func(int, PageRef, []byte) error) error {
	if len(vol.Stats) == 0 {
		return ErrNoStats
	}
	if len(vol.Stats) != len(vol.Lists) {
		return fmt.Errorf("manifest has %d page lists and %d lists of stat pages: %w", len(vol.Lists), len(vol.Stats), ErrCorrupt)
	}
	return v.readPages(ctx, pairs(vol.Lists, vol.Stats), func(lists [][]PageRef) ([]PageRef, error) {
		var refs []PageRef
		for ; len(lists) > 0; lists = lists[2:] {
			if len(lists[0]) != len(lists[1]) {
				return nil, fmt.Errorf("list of %d pages has %d stat pages: %w", len(lists[0]), len(lists[1]), ErrCorrupt)
			}
			refs = append(refs, pairs(lists[0], lists[1])...)
		}
		return refs, nil
	}, each)
}

// pairs returns a[0], b[0], a[1], b[1] and so on, of two lists of one length.
func pairs(a, b []PageRef) []PageRef {
	out := make([]PageRef, 0, 2*len(a))
	for i := range a {
		out = append(out, a[i], b[i])
	}
	return out
}
