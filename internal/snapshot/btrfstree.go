package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"unsafe"
)

// This file reads the trees of a btrfs (BTRFS_IOC_TREE_SEARCH_V2, which needs
// CAP_SYS_ADMIN) for facts that FIEMAP does not give. linux/btrfs_tree.h defines the
// forms of the items; their numbers are little-endian.

// Types of items, the middle part of a key.
const (
	itemInode      = 1
	itemInodeRef   = 12
	itemInodeExref = 13
	itemXattr      = 24
	itemDir        = 84
	itemDirIndex   = 96
	itemExtentData = 108
)

const lastFreeObject = ^uint64(0) - 255 // BTRFS_LAST_FREE_OBJECTID: the highest inode number

// treeKey is the place of an item; items are ordered by it.
type treeKey struct {
	object uint64 // the inode number
	kind   uint32
	offset uint64
}

type treeItem struct {
	treeKey
	data []byte // good until the next item
}

type searchArgs struct {
	treeID                 uint64
	minObject, maxObject   uint64
	minOffset, maxOffset   uint64
	minTransid, maxTransid uint64
	minType, maxType       uint32
	count                  uint32
	_                      uint32
	_                      [4]uint64
	bufSize                uint64
	buf                    [searchBuffer]byte
}

// searchBuffer holds any item: the largest is a tree node, 64 KiB.
const searchBuffer = 256 << 10

// treeSearch lists the items of the subvolume of f, from low to high inclusive, in the
// leaves of its tree that were written in transaction minTransid or later. Other items
// of such leaves are listed as well.
func treeSearch(f *os.File, low, high treeKey, minTransid uint64) iter.Seq2[treeItem, error] {
	return func(yield func(treeItem, error) bool) {
		args := new(searchArgs)
		for {
			args.minObject, args.minType, args.minOffset = low.object, low.kind, low.offset
			args.maxObject, args.maxType, args.maxOffset = high.object, high.kind, high.offset
			args.minTransid, args.maxTransid = minTransid, ^uint64(0)
			args.count, args.bufSize = ^uint32(0), searchBuffer
			if err := ioctl(f, iocTreeSearchV2, unsafe.Pointer(args)); err != nil {
				yield(treeItem{}, fmt.Errorf("read the tree of btrfs: %w", err))
				return
			}
			if args.count == 0 {
				return
			}
			rest := args.buf[:]
			for range args.count {
				const header = 32 // transid, objectid, offset, type, length
				if len(rest) < header || len(rest)-header < int(binary.NativeEndian.Uint32(rest[28:])) {
					yield(treeItem{}, errors.New("read the tree of btrfs: an item reaches beyond the answer"))
					return
				}
				item := treeItem{treeKey: treeKey{
					object: binary.NativeEndian.Uint64(rest[8:]),
					kind:   binary.NativeEndian.Uint32(rest[24:]),
					offset: binary.NativeEndian.Uint64(rest[16:]),
				}}
				size := int(binary.NativeEndian.Uint32(rest[28:]))
				item.data, rest = rest[header:header+size], rest[header+size:]
				if !yield(item, nil) {
					return
				}
				low = item.treeKey
			}
			if !low.next() {
				return
			}
		}
	}
}

// next moves to the key that follows; false when there is none.
func (k *treeKey) next() bool {
	if k.offset++; k.offset != 0 {
		return true
	}
	if k.kind++; k.kind <= 255 {
		return true
	}
	k.kind = 0
	k.object++
	return k.object != 0
}

// inodeItem is the part of struct btrfs_inode_item that is of use here.
type inodeItem struct {
	generation uint64 // the transaction that made it
	transid    uint64 // the last transaction that changed it
	size       int64  // bytes
}

func parseInode(data []byte) (inodeItem, error) {
	if len(data) < 160 {
		return inodeItem{}, fmt.Errorf("btrfs inode of %d bytes", len(data))
	}
	le := binary.LittleEndian
	return inodeItem{le.Uint64(data), le.Uint64(data[8:]), int64(le.Uint64(data[16:]))}, nil
}

// findInode reads an inode of the subvolume that f lies in; false when there is none.
func findInode(f *os.File, ino uint64) (inodeItem, bool, error) {
	key := treeKey{object: ino, kind: itemInode}
	for item, err := range treeSearch(f, key, key, 0) {
		if err != nil {
			return inodeItem{}, false, err
		}
		in, err := parseInode(item.data)
		return in, err == nil, err
	}
	return inodeItem{}, false, nil
}

// treeExtents lists the extents of a file of the subvolume that f lies in.
func treeExtents(f *os.File, ino uint64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		low := treeKey{object: ino, kind: itemExtentData}
		high := treeKey{object: ino, kind: itemExtentData, offset: ^uint64(0)}
		for item, err := range treeSearch(f, low, high, 0) {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			e, hole, err := parseExtent(item.offset, item.data)
			if hole {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// parseExtent reads a struct btrfs_file_extent_item.
func parseExtent(logical uint64, data []byte) (e Extent, hole bool, err error) {
	const head, full = 21, 53
	const inline, regular, prealloc = 0, 1, 2
	if len(data) < head {
		return e, false, fmt.Errorf("btrfs extent of %d bytes", len(data))
	}
	le := binary.LittleEndian
	compression, encryption, encoding, kind := data[16], data[17], le.Uint16(data[18:]), data[20]
	if kind == inline {
		return Extent{Logical: int64(logical), Length: int64(le.Uint64(data[8:])), Vague: true}, false, nil
	}
	if len(data) < full || kind > prealloc {
		return e, false, fmt.Errorf("btrfs extent of kind %d and %d bytes", kind, len(data))
	}
	address, offset := le.Uint64(data[head:]), le.Uint64(data[head+16:])
	e = Extent{Logical: int64(logical), Length: int64(le.Uint64(data[head+24:])), Physical: address + offset}
	switch {
	case address == 0:
		return e, true, nil
	case kind == prealloc:
		e.Zero = true
	case encryption != 0 || encoding != 0:
		e.Vague = true
	case compression != 0:
		e.Physical, e.Inside, e.Encoded = address, offset, true
	}
	return e, false, nil
}

// treePair is a base and a later snapshot of one subvolume, both read-only and open.
type treePair struct {
	base, now *os.File
}

// file lists the ranges of a file that may differ.
func (p *treePair) file(ino uint64, size int64) ([]Range, bool, error) {
	fail := func(err error) ([]Range, bool, error) {
		return nil, false, fmt.Errorf("compare file %d of %s with %s: %w", ino, p.now.Name(), p.base.Name(), err)
	}
	old, there, err := findInode(p.base, ino)
	if err != nil {
		return fail(err)
	}
	cur, still, err := findInode(p.now, ino)
	if err != nil {
		return fail(err)
	}
	// Numbers are given once, but the generation tells for sure that it is the same file.
	if !there || !still || old.generation != cur.generation || size != cur.size {
		return []Range{{0, size}}, false, nil
	}
	ranges, exact, err := differ(treeExtents(p.base, ino), treeExtents(p.now, ino), old.size, size)
	if err != nil {
		return fail(err)
	}
	return ranges, exact, nil
}

// changedInodes lists the inodes of the subvolume now that were changed after transaction base.
//
// Every change of a file, its metadata or its names writes its inode item, with the
// transaction's number in it; extents hold the number of their own transaction. A leaf
// of the tree is never older than an item in it that changed, so leaves from base or
// before are not read. The tests have a case for each way of change.
func changedInodes(now *os.File, base uint64) (runs, error) {
	var set runs
	low, high := treeKey{object: subvolIno}, treeKey{lastFreeObject, 255, ^uint64(0)}
	for item, err := range treeSearch(now, low, high, base+1) {
		if err != nil {
			return nil, err
		}
		// also for kinds of items unknown here (fs-verity, encryption, later inventions)
		newer := true
		switch item.kind {
		case itemInode:
			in, err := parseInode(item.data)
			if err != nil {
				return nil, err
			}
			newer = in.transid > base
		case itemExtentData:
			newer = len(item.data) < 8 || binary.LittleEndian.Uint64(item.data) > base
		case itemXattr, itemDir, itemDirIndex:
			// struct btrfs_dir_item: a key of 17 bytes, then the transaction; several
			// of one hash lie in a row, and the inode item shows their changes.
			newer = len(item.data) < 25 || binary.LittleEndian.Uint64(item.data[17:]) > base
		case itemInodeRef, itemInodeExref:
			// a name that came or went changed the count of links or the time of the inode
			newer = false
		}
		if newer {
			set.add(item.object)
		}
	}
	return set, nil
}

// compareTrees opens base and now and finds the changes. The pair can be trusted when
// both are read-only snapshots of one subvolume (the same parent UUID), neither was
// ever written to (the generation of its tree is the number of the transaction that
// made it), and base is the older one: the numbers of transactions only grow.
func compareTrees(base, now Ref) (*Changes, error) {
	doubt := func(format string, args ...any) error {
		return fmt.Errorf("compare %s with %s: %w: %s", now.Path, base.Path, ErrBase, fmt.Sprintf(format, args...))
	}
	c := &Changes{tree: &treePair{}}
	var facts [2]*subvolInfo
	var ids [2][16]byte
	for i, ref := range []Ref{base, now} {
		f, err := openSnapshot("open", ref)
		if err != nil {
			c.Close()
			return nil, doubt("%v", err)
		}
		c.closes = append(c.closes, f)
		if facts[i], err = getSubvolInfo(f); err == nil {
			ids[i], err = fsid(f)
		}
		if err != nil {
			c.Close()
			return nil, doubt("%v", err)
		}
	}
	c.tree.base, c.tree.now = c.closes[0], c.closes[1]
	old, cur := facts[0], facts[1]
	var err error
	switch {
	case ids[0] != ids[1]:
		err = doubt("they lie on different file systems")
	case old.parentUUID != cur.parentUUID:
		err = doubt("they are snapshots of different subvolumes")
	case old.receivedUUID != [16]byte{} || cur.receivedUUID != [16]byte{}:
		err = doubt("one of them was received from elsewhere")
	case old.generation != old.otransid || cur.generation != cur.otransid:
		err = doubt("one of them was written to, or moved, after it was made")
	case old.otransid >= cur.otransid:
		err = doubt("the base is not the older one")
	}
	if err == nil {
		c.inodes, err = changedInodes(c.tree.now, old.otransid)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
