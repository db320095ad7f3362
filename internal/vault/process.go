package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/hostid"
)

// process says which process of which boot of which machine, so exactly that another
// process of that machine can tell, without any clock, that it has ended. An unknown
// fact is empty, and a process with an unknown fact is never said to have ended.
type process struct {
	Machine string `cbor:"1,keyasint"` // hex of half the SHA-256 of /etc/machine-id
	// /proc/sys/kernel/random/boot_id: another with each boot of any machine
	Boot       string `cbor:"2,keyasint"`
	Namespaces string `cbor:"3,keyasint"` // of pids, and of the clock that Start is counted by
	PID        int    `cbor:"4,keyasint"`
	Start      uint64 `cbor:"5,keyasint"` // field 22 of /proc/PID/stat, in ticks since the boot
	// of the host, as its state folder keeps it (internal/hostid)
	Identity string `cbor:"6,keyasint"`
}

// observer is a process that judges whether others have ended.
type observer struct {
	process
	host  string   // its name
	boots []string // that the host's state folder has lived through
}

// observe describes this process, on the host that o names.
func observe(o SessionOptions) observer {
	me := observer{thisProcess(), o.Host, o.Identity.Boots}
	me.Identity = o.Identity.ID
	return me
}

// thisProcess describes the process that runs this. It is read anew
// each time: it is a handful of reads of procfs.
func thisProcess() process {
	p := process{PID: os.Getpid()}
	if b, err := os.ReadFile("/etc/machine-id"); err == nil && len(bytes.TrimSpace(b)) > 0 {
		sum := sha256.Sum256(bytes.TrimSpace(b))
		p.Machine = hex.EncodeToString(sum[:16])
	}
	p.Boot = hostid.Boot()
	pids, perr := os.Readlink("/proc/self/ns/pid")
	times, terr := os.Readlink("/proc/self/ns/time")
	if errors.Is(terr, os.ErrNotExist) { // a kernel before 5.6 has one for all
		terr = nil
	}
	if err := errors.Join(perr, terr); err == nil {
		p.Namespaces = pids + " " + times
	}
	if start, _, err := procStat("self"); err == nil {
		p.Start = start
	}
	return p
}

// is reports whether p is certainly the process that observes.
func (me observer) is(p process) bool {
	p.Identity = me.Identity // another part of this process may know another, or none
	return p == me.process && p.Boot != "" && p.Namespaces != "" && p.Start != 0
}

// ended reports whether p, of a host with that name, has certainly ended. A process
// of another machine, or in another namespace, never has: it can't be seen from here.
func (me observer) ended(p process, host string) bool {
	if p.Boot == "" || me.Boot == "" {
		return false
	}
	if p.Boot != me.Boot {
		// A boot that this very host has left behind. The machine id and the name of
		// a host are not enough to say so: clones have both in common. Copies of a
		// state folder have the identity in common too, but not each other's boots.
		return p.Identity != "" && p.Identity == me.Identity && p.Machine == me.Machine && host == me.host && slices.Contains(me.boots, p.Boot)
	}
	if p.Namespaces == "" || p.Namespaces != me.Namespaces || p.PID <= 0 || p.Start == 0 {
		return false
	}
	// Where /proc hides other users' processes, a signal still tells whether there is one.
	if err := syscall.Kill(p.PID, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	start, state, err := procStat(strconv.Itoa(p.PID))
	if err != nil {
		return false
	}
	// the number is another process's; or nobody waited for it yet
	return start != p.Start || state == 'Z' || state == 'X'
}

// procStat returns when a process started, in ticks since the boot, and its state.
func procStat(pid string) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name of the program stands in parentheses and may hold any byte.
	_, rest, _ := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("/proc/%s/stat is of an unknown form", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}
