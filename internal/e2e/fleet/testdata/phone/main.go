// Command phone is an instance of the fleet and the manager of it. As "phone run" it is the
// program of the instance: it writes numbered records, each durable before its number is told
// to the outside. With a folder it does the act in HOLDFAST_ACTION, as an exec runtime has it.
//
// The folder has lock (held by the program while it lives), act (held by the program
// that acts on the instance), pid (its process), told (numbers that the outside has
// seen, with the life that wrote each), starts (a line for each life: the records
// that it found) and down (the generation of the life that was powered down last).
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	if len(os.Args) == 5 && os.Args[1] == "run" {
		err = run(os.Args[2], os.Args[3], os.Args[4])
	} else if len(os.Args) == 3 {
		err = act(os.Args[1], os.Args[2], os.Getenv("HOLDFAST_ACTION"))
	} else {
		err = errors.New("usage: phone FOLDER VOLUME, or phone run FOLDER VOLUME LIFE")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "phone:", err)
		os.Exit(1)
	}
}

// act does one verb. Verbs that change something hold the lock of the folder, so
// that nobody acts in between; "recreate" is for a caller that holds it already.
func act(dir, volume, verb string) error {
	if verb != "state" && verb != "recreate" {
		lock, err := os.OpenFile(filepath.Join(dir, "act"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("%s: somebody else acts on the instance: %w", verb, err)
		}
	}
	p := look(dir)
	switch verb {
	case "state":
		fmt.Println(p.line(dir))
		return nil
	case "freeze":
		return p.reach("freeze", unix.SIGSTOP, frozen)
	case "thaw":
		if p.state == stopped {
			return nil
		}
		return p.reach("thaw", unix.SIGCONT, running)
	case "power_down":
		// A phone that runs would write while it ends:
		// only a phone that stands still is taken away.
		if p.state == running {
			return errors.New("power_down: the phone runs")
		}
		if p.state == frozen {
			if err := os.WriteFile(filepath.Join(dir, "down"), []byte(p.word()), 0o600); err != nil {
				return err
			}
		}
		return p.reach("power_down", unix.SIGKILL, stopped)
	case "recreate":
		if err := p.reach("recreate", unix.SIGKILL, stopped); err != nil {
			return err
		}
		return start(dir, volume)
	case "start":
		if p.state != stopped {
			return p.reach("start", unix.SIGCONT, running)
		}
		return start(dir, volume)
	}
	return fmt.Errorf("unknown action %q", verb)
}

// start begins a new life, and waits until it has read its volume.
func start(dir, volume string) error {
	life := strconv.FormatInt(time.Now().UnixNano(), 36)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, "run", dir, volume, life)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if p := look(dir); p.pid == cmd.Process.Pid {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the program ended at once: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
