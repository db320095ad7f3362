package index

import (
	"encoding/json"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/internal/hostid"
)

// A folder of the index cache that nobody uses is removed in the end. No wall clock
// decides that: it may be set back, or be years ahead at a boot without a network,
// and then every cache would be thrown away, or none. A stamp in the folder counts
// the time that the host was up, and the boots, since a backup used the folder.

const (
	// unusedTime is for how long a host is up, in seconds, before a
	// folder that no backup used goes.
	unusedTime = 30 * 24 * 3600
	// unusedBoots is the same for a host that is started often.
	unusedBoots = 100
	stampName   = ".used"
)

// bootClock is a moment of one boot.
type bootClock struct {
	Boot string `json:"boot"`    // id of the boot
	Up   int64  `json:"seconds"` // since it began, suspended or not
}

// clockNow is a variable for tests.
var clockNow = func() bootClock {
	var c bootClock
	var ts unix.Timespec
	boot := hostid.Boot()
	if boot == "" || unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return c
	}
	return bootClock{boot, ts.Sec}
}

// stamp is the content of the file.
type stamp struct {
	bootClock       // of the last look
	Idle      int64 `json:"idle_seconds"` // up to then, as far as somebody looked
	Boots     int   `json:"boots"`        // that began without a use
}

// use notes that a backup uses the folder. A note that
// can't be written costs a fetch of the index at worst.
func use(folder string, now bootClock) { writeStamp(folder, stamp{bootClock: now}) }

// unused tells whether no backup used the folder for long, and notes the present boot and time.
func unused(folder string, now bootClock) bool {
	var s stamp
	b, err := os.ReadFile(filepath.Join(folder, stampName))
	if now.Boot == "" {
		return false // nothing can be said
	}
	if err != nil || json.Unmarshal(b, &s) != nil || s.Boot == "" {
		use(folder, now) // from here on it is counted
		return false
	}
	if s.Boot == now.Boot {
		s.Idle += max(0, now.Up-s.Up)
	} else {
		s.Boots++
	}
	s.bootClock = now
	writeStamp(folder, s)
	return s.Idle > unusedTime || s.Boots > unusedBoots
}

func writeStamp(folder string, s stamp) {
	if b, err := json.Marshal(s); err == nil {
		// a torn file is written anew
		_ = os.WriteFile(filepath.Join(folder, stampName), b, 0o600)
	}
}
