package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A tablet is a phone whose folder has the file tablet. The file has the tenant, the letter of the
// tenant, the instance, and the volumes to which the tablet writes. A tablet only appends: record
// m of a file is the line number m of the file, and each line has the same length. The file told
// has a line for each durable record: the file of the record, and how many records the file has.
const (
	tabletRecord = 64 // bytes, as in ledger_test.go
	tabletFiles  = 6  // of one life
	tabletPause  = 200 * time.Millisecond
)

// runTablet is one life of a tablet. It looks at nothing: a tablet lives on any content.
func runTablet(dir, home, life, what string) error {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("the tablet runs already: %w", err)
	}
	f := strings.Fields(what)
	if len(f) < 3 {
		return fmt.Errorf("the file tablet has %q", what)
	}
	tenant, instance, volumes := f[0], f[2], f[3:]
	life = f[1] + life
	if err := appendLine(filepath.Join(dir, "starts"), fmt.Sprintf("%s %s\n", life, tenant)); err != nil {
		return err
	}
	if err := writePID(dir); err != nil {
		return err
	}
	for n := 0; len(volumes) > 0; n++ {
		file, count := fmt.Sprintf("r-%s-%d", life, n%tabletFiles), n/tabletFiles+1
		path := filepath.Join(home, volumes[n%tabletFiles%len(volumes)], file)
		line := fmt.Sprintf("%-*s\n", tabletRecord-1, fmt.Sprintf("%s %s %s %d", tenant, instance, file, count))
		if err := appendLine(path, line); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the volume is gone: %w", err)
		} else if err != nil {
			return err
		}
		if err := appendLine(filepath.Join(dir, "told"), fmt.Sprintf("%s %d\n", file, count)); err != nil {
			return err
		}
		time.Sleep(tabletPause)
	}
	for { // it has nothing to write
		time.Sleep(time.Hour)
	}
}
