package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// checkPages walks the pages of a bbolt file before bbolt does: its cursors loop for ever
// where a damaged page points back to a page above it, and its own check follows them. (The
// layout is file format 2, in go.etcd.io/bbolt/internal/common: meta, page and inode.)
func checkPages(file []byte, pageSize int) error {
	c := pageCheck{file: file, size: uint64(pageSize), seen: map[uint64]bool{}}
	meta, err := c.meta()
	if err != nil {
		return err
	}
	c.high = binary.LittleEndian.Uint64(meta[40:])
	if c.high < 2 || c.high > uint64(len(file))/c.size {
		return fmt.Errorf("it has %d pages in a file of %d bytes", c.high, len(file))
	}
	if free := binary.LittleEndian.Uint64(meta[32:]); free != ^uint64(0) {
		if err := c.freelist(free); err != nil {
			return err
		}
	}
	return c.tree(binary.LittleEndian.Uint64(meta[16:]))
}

type pageCheck struct {
	file []byte
	size uint64
	high uint64          // number of the first page that is not in use
	seen map[uint64]bool // pages that belong to something
}

const (
	pageHeader = 16
	branchPage = 0x01
	leafPage   = 0x02
	freePage   = 0x10
	element    = 16 // of a branch or a leaf
	bucketFlag = 0x01
)

// meta returns the newer of the two that are whole.
func (c *pageCheck) meta() (newest []byte, err error) {
	const length, checksum = 64, 56
	for i := range uint64(2) {
		if uint64(len(c.file)) < (i+1)*c.size {
			break
		}
		m := c.file[i*c.size+pageHeader:][:length]
		h := fnv.New64a()
		_, _ = h.Write(m[:checksum]) // never fails
		if binary.LittleEndian.Uint32(m) != 0xed0cdaed || h.Sum64() != binary.LittleEndian.Uint64(m[checksum:]) {
			continue
		}
		if newest == nil || binary.LittleEndian.Uint64(m[48:]) > binary.LittleEndian.Uint64(newest[48:]) {
			newest = m
		}
	}
	if newest == nil {
		return nil, errors.New("it has no meta page")
	}
	return newest, nil
}

// page returns the content of a page with its overflow
// pages, each of which belongs to one page only.
func (c *pageCheck) page(id uint64) (flags uint16, count int, body []byte, err error) {
	if id < 2 || id >= c.high {
		return 0, 0, nil, fmt.Errorf("page %d is not one of %d", id, c.high)
	}
	p := c.file[id*c.size:]
	more := uint64(binary.LittleEndian.Uint32(p[12:]))
	if binary.LittleEndian.Uint64(p) != id || id+more >= c.high {
		return 0, 0, nil, fmt.Errorf("page %d says that it is page %d with %d more", id, binary.LittleEndian.Uint64(p), more)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return 0, 0, nil, fmt.Errorf("page %d is in two places", i)
		}
		c.seen[i] = true
	}
	return binary.LittleEndian.Uint16(p[8:]), int(binary.LittleEndian.Uint16(p[10:])), p[:(more+1)*c.size], nil
}

func (c *pageCheck) freelist(id uint64) error {
	flags, count, body, err := c.page(id)
	if err != nil {
		return err
	}
	ids := body[pageHeader:]
	if count == 0xffff {
		if n := binary.LittleEndian.Uint64(ids); n < uint64(len(ids)/8) {
			count, ids = int(n), ids[8:]
		}
	}
	if flags != freePage || count > len(ids)/8 {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	for i := range count {
		if free := binary.LittleEndian.Uint64(ids[8*i:]); free < 2 || free >= c.high {
			return fmt.Errorf("free page %d is not one of %d", free, c.high)
		}
	}
	return nil
}

// tree walks the pages of one bucket and of the buckets in it.
func (c *pageCheck) tree(id uint64) error {
	flags, count, body, err := c.page(id)
	if err != nil {
		return err
	}
	return c.elements(id, flags, count, body)
}

func (c *pageCheck) elements(id uint64, flags uint16, count int, body []byte) error {
	if flags != branchPage && flags != leafPage || pageHeader+count*element > len(body) || flags == branchPage && count == 0 {
		return fmt.Errorf("page %d is no page of a tree", id)
	}
	for i := range count {
		at := uint64(pageHeader + i*element)
		e := body[at:]
		u := func(off int) uint64 { return uint64(binary.LittleEndian.Uint32(e[off:])) }
		if flags == branchPage {
			if at+u(0)+u(4) > uint64(len(body)) {
				return fmt.Errorf("page %d has a key outside of it", id)
			}
			if err := c.tree(binary.LittleEndian.Uint64(e[8:])); err != nil {
				return err
			}
			continue
		}
		pos, key, value := at+u(4), u(8), u(12)
		if pos+key+value > uint64(len(body)) {
			return fmt.Errorf("page %d has a record outside of it", id)
		}
		if u(0)&bucketFlag == 0 {
			continue
		}
		if err := c.bucket(id, body[pos+key:][:value]); err != nil {
			return err
		}
	}
	return nil
}

// bucket checks a bucket by its record: it has its pages elsewhere,
// or is small and has its page in the record.
func (c *pageCheck) bucket(id uint64, record []byte) error {
	if len(record) < pageHeader {
		return fmt.Errorf("page %d has a bucket without a header", id)
	}
	if root := binary.LittleEndian.Uint64(record); root != 0 {
		return c.tree(root)
	}
	inline := record[pageHeader:]
	if len(inline) < pageHeader {
		return fmt.Errorf("page %d has a bucket without a page", id)
	}
	flags := binary.LittleEndian.Uint16(inline[8:])
	if flags != leafPage {
		return fmt.Errorf("page %d has a bucket without a leaf", id)
	}
	return c.elements(id, flags, int(binary.LittleEndian.Uint16(inline[10:])), inline)
}
