package testbed

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// sector is the unit, in bytes, that the disk writes whole or not at all, as today's
// disks do. btrfs relies on it for its superblock.
const sector = 4096

// VolatileDisk is a disk of machines that has a cache, as real ones have: when the
// power goes, the disk loses a part of the writes that were not flushed. It can be used
// by one machine at a time. Its methods are for one goroutine.
//
// The test serves it to the machine over a unix socket in the protocol NBD (the document
// doc/proto.md of the project NetworkBlockDevice), as far as qemu needs it: the handshake
// "fixed newstyle", READ, WRITE, FLUSH and DISC. One goroutine serves, until the test ends.
type VolatileDisk struct {
	path   string
	file   *os.File
	size   int64
	listen net.Listener
	done   chan struct{} // closed when the server has ended

	mu        sync.Mutex // held by the server while a machine is connected
	unflushed []diskWrite
	flushes   int   // that machines have asked for since DieAt
	dieAt     int   // the flush that is not answered
	err       error // of the server's last connection
	died      chan struct{}
}

// diskWrite is one write that no flush followed yet.
type diskWrite struct {
	at       int64
	old, new []byte
}

// NewVolatileDisk makes an empty disk of that size in bytes; it goes with the test.
func NewVolatileDisk(t testing.TB, size int64) *VolatileDisk {
	t.Helper()
	path := Disk(t, size)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &VolatileDisk{path: path, file: f, size: size, done: make(chan struct{})}
	if d.listen, err = net.Listen("unix", d.socket()); err != nil {
		t.Fatal(err)
	}
	go d.serve()
	t.Cleanup(func() {
		_ = d.listen.Close()
		<-d.done
		_ = f.Close()
	})
	return d
}

func (d *VolatileDisk) socket() string { return filepath.Join(filepath.Dir(d.path), "nbd") }

// Path is the file with the disk's content. Tests may read or change it while no
// machine has the disk.
func (d *VolatileDisk) Path() string { return d.path }

// Drive is the disk's name for MachineSpec.Disks.
func (d *VolatileDisk) Drive() string { return nbdPrefix + d.socket() }

// DieAt makes the next machine's flush of that number, counted from 1, and all
// that comes after it remain without an answer. The channel is closed then, so
// that the machine can be cut at this very instant. 0 stands for no flush.
func (d *VolatileDisk) DieAt(flush int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes, d.dieAt, d.died = 0, flush, make(chan struct{})
	return d.died
}

// PowerLost is to be called after the machine was cut. Each sector that was not flushed stays
// with the given probability, as the last or an earlier one of the writes to it. PowerLost
// returns how many sectors were written but not flushed, and how many of those writes are lost.
func (d *VolatileDisk) PowerLost(r *rand.Rand, stays float64) (unflushed, lost int, err error) {
	d.mu.Lock() // when the server has read all that the machine has sent
	defer d.mu.Unlock()
	if d.err != nil {
		return 0, 0, d.err
	}
	for i := len(d.unflushed) - 1; i >= 0; i-- {
		if _, err := d.file.WriteAt(d.unflushed[i].old, d.unflushed[i].at); err != nil {
			return 0, 0, err
		}
	}
	for _, w := range d.unflushed {
		for left := w.new; len(left) > 0; {
			at := w.at + int64(len(w.new)-len(left))
			part := left[:min(sector-at%sector, int64(len(left)))]
			left = left[len(part):]
			unflushed++
			if r.Float64() >= stays {
				lost++
				continue
			}
			if _, err := d.file.WriteAt(part, at); err != nil {
				return 0, 0, err
			}
		}
	}
	d.unflushed = nil
	return unflushed, lost, nil
}

func (d *VolatileDisk) serve() {
	defer close(d.done)
	for {
		c, err := d.listen.Accept()
		if err != nil {
			return // the test ends
		}
		d.mu.Lock()
		d.err = d.talk(c)
		_ = c.Close()
		d.mu.Unlock()
	}
}

// The numbers of the protocol.
const (
	nbdPrefix = "nbd:unix:" // of a disk's name, for qemu

	// "NBDMAGIC", "IHAVEOPT"
	nbdHello, nbdOption                = 0x4e42444d41474943, 0x49484156454F5054
	nbdOptionReply                     = 0x3e889045565a9
	nbdRequest, nbdReply               = 0x25609513, 0x67446698
	nbdFixedNewstyle, nbdNoZeroes      = 1, 2
	nbdGo                              = 7
	nbdAck, nbdInfo, nbdUnsupported    = 1, 3, 1<<31 + 1
	nbdHasFlags, nbdSendFlush          = 1, 4
	nbdRead, nbdWrite, nbdDisc, nbdFls = 0, 1, 2, 3
)

// talk serves one machine until it is gone, which is no error.
func (d *VolatileDisk) talk(c net.Conn) error {
	r, w := bufio.NewReaderSize(c, 1<<17), bufio.NewWriterSize(c, 1<<17)
	gone := func(err error) error {
		var network *net.OpError
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) {
			return nil
		}
		return err
	}
	if err := d.shakeHands(r, w); err != nil {
		return gone(err)
	}
	for {
		if err := w.Flush(); err != nil {
			return gone(err)
		}
		var q struct {
			Magic       uint32
			Flags, Type uint16
			Handle      uint64
			At          uint64
			Length      uint32
		}
		if err := binary.Read(r, binary.BigEndian, &q); err != nil {
			return gone(err)
		}
		if q.Magic != nbdRequest || q.Flags != 0 {
			return fmt.Errorf("nbd: not a request that was offered: %+v", q)
		}
		var answer []byte
		switch q.Type {
		case nbdRead:
			answer = make([]byte, q.Length)
			if _, err := d.file.ReadAt(answer, int64(q.At)); err != nil {
				return fmt.Errorf("nbd: read: %w", err)
			}
		case nbdWrite:
			change := diskWrite{at: int64(q.At), old: make([]byte, q.Length), new: make([]byte, q.Length)}
			if _, err := io.ReadFull(r, change.new); err != nil {
				return gone(err)
			}
			if _, err := d.file.ReadAt(change.old, change.at); err != nil {
				return fmt.Errorf("nbd: write: %w", err)
			}
			if _, err := d.file.WriteAt(change.new, change.at); err != nil {
				return fmt.Errorf("nbd: write: %w", err)
			}
			d.unflushed = append(d.unflushed, change)
		case nbdFls:
			if d.flushes++; d.flushes == d.dieAt {
				close(d.died)
				_, err := io.Copy(io.Discard, r) // until the machine is gone
				return gone(err)
			}
			d.unflushed = nil
		case nbdDisc:
			return nil
		default:
			return fmt.Errorf("nbd: request of type %d was not offered", q.Type)
		}
		if err := send(w, uint32(nbdReply), uint32(0), q.Handle, answer); err != nil {
			return gone(err)
		}
	}
}

// shakeHands answers a client's questions until the client begins to use the disk.
func (d *VolatileDisk) shakeHands(r io.Reader, w *bufio.Writer) error {
	if err := send(w, uint64(nbdHello), uint64(nbdOption), uint16(nbdFixedNewstyle|nbdNoZeroes)); err != nil {
		return err
	}
	var flags uint32
	if err := errors.Join(w.Flush(), binary.Read(r, binary.BigEndian, &flags)); err != nil {
		return err
	}
	for {
		var o struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(r, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != nbdOption {
			return fmt.Errorf("nbd: not an option: %+v", o)
		}
		if _, err := io.CopyN(io.Discard, r, int64(o.Length)); err != nil {
			return err
		}
		if o.Option != nbdGo {
			if err := send(w, uint64(nbdOptionReply), o.Option, uint32(nbdUnsupported), uint32(0)); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			continue
		}
		return errors.Join(
			send(w, uint64(nbdOptionReply), o.Option, uint32(nbdInfo), uint32(12), uint16(0), uint64(d.size), uint16(nbdHasFlags|nbdSendFlush)),
			send(w, uint64(nbdOptionReply), o.Option, uint32(nbdAck), uint32(0)))
	}
}

// send writes numbers and bytes as the network has them.
func send(w io.Writer, values ...any) error {
	for _, v := range values {
		if err := binary.Write(w, binary.BigEndian, v); err != nil {
			return err
		}
	}
	return nil
}
