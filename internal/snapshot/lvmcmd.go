package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lvmPatience is how long one command may take. Each command waits for other
	// programs' commands on the same volume group.
	lvmPatience = 2 * time.Minute
	// lvmGrace is how long a command that was asked to end may go on. A command that is
	// about to change the kernel's tables ignores the signal: see lvmRun.
	lvmGrace = 30 * time.Second
)

// programFolders are searched for programs after PATH: a service's PATH may lack the sbin folders.
var programFolders = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"}

// forwarded are the variables that LVM's programs get of ours.
var forwarded = regexp.MustCompile(`^(PATH|TMPDIR|(LVM|DM)_[A-Z_]+)=`)

// commandError is a program that failed; words is its standard error.
type commandError struct {
	command string
	words   string
	err     error
}

func (e *commandError) Error() string {
	if e.words == "" {
		return fmt.Sprintf("%s: %v", e.command, e.err)
	}
	return fmt.Sprintf("%s: %s (%v)", e.command, e.words, e.err)
}

func (e *commandError) Unwrap() error { return e.err }

func findProgram(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range programFolders {
		if p, err := exec.LookPath(dir + "/" + name); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: the program %s is not installed", ErrUnsupported, name)
}

// lvmRead runs a program that changes nothing; the end of ctx ends it.
func lvmRead(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lvmPatience, fmt.Errorf("not done after %s", lvmPatience))
	defer cancel()
	return runProgram(ctx, nil, args...)
}

// lvmRun runs a program that changes LVM volumes or mappings. The program does not end with ctx:
// it suspends a volume for a moment, and if it were killed then, every writer to that volume
// would hang (resumeVolumes lets it run again). LVM itself ignores SIGINT in that moment.
//
// The program's standard input is the lock file: a process that holds that lock alone
// knows that no program of a dead agent is still at work (see Leftovers).
func lvmRun(ctx context.Context, args ...string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lock, err := lvmLock(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	cause := fmt.Errorf("not done after %s", lvmPatience)
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), lvmPatience, cause)
	defer cancel()
	_, err = runProgram(ctx, lock, args...)
	return err
}

func runProgram(ctx context.Context, stdin *os.File, args ...string) ([]byte, error) {
	program, err := findProgram(args[0])
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Dir = "/"
	// The program gets only a part of our environment: ours has the store's keys, and
	// root may read the environment of a program.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return !forwarded.MatchString(e) }),
		"LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = stdin
	}
	// A group of its own: an interrupt at the terminal is for us, and we decide.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = lvmGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		name := args[0]
		if name == "lvm" {
			name = args[1]
		}
		return nil, &commandError{name, errorWords(stderr.String()), err}
	}
	return stdout.Bytes(), nil
}

// errorWords joins the lines of an error message, without LVM's
// advice on how pools should be set up.
func errorWords(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "WARNING:") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// logicalVolume is one line of the report of lvs.
type logicalVolume struct {
	Group      string `json:"vg_name"`
	Name       string `json:"lv_name"`
	Tags       string `json:"lv_tags"`
	Attr       string `json:"lv_attr"`
	Origin     string `json:"origin"`
	Pool       string `json:"pool_lv"`
	Segment    string `json:"segtype"`
	Size       int64  `json:"lv_size,string"` // bytes
	Data       string `json:"data_percent"`
	Metadata   string `json:"metadata_percent"`
	Major      int    `json:"lv_kernel_major,string"` // -1 while inactive
	Minor      int    `json:"lv_kernel_minor,string"`
	Invalid    string `json:"lv_snapshot_invalid"`
	ThinID     string `json:"thin_id"`
	Health     string `json:"lv_health_status"`
	Free       int64  `json:"vg_free,string"` // bytes of the group that no logical volume has
	Total      int64  `json:"vg_size,string"` // bytes of the group
	ExtentSize int64  `json:"vg_extent_size,string"`
}

const lvFields = "vg_name,lv_name,lv_tags,lv_attr,origin,pool_lv,segtype,lv_size,data_percent,metadata_percent," +
	"lv_kernel_major,lv_kernel_minor,lv_snapshot_invalid,thin_id,lv_health_status,vg_free,vg_size,vg_extent_size"

func (lv *logicalVolume) thin() bool    { return lv.Segment == "thin" }
func (lv *logicalVolume) active() bool  { return lv.Major >= 0 }
func (lv *logicalVolume) invalid() bool { return lv.Invalid == "snapshot invalid" }
func (lv *logicalVolume) path() string  { return lv.Group + "/" + lv.Name }
func (lv *logicalVolume) tags() []string {
	return strings.FieldsFunc(lv.Tags, func(r rune) bool { return r == ',' })
}

// listVolumes lists the logical volumes of a group, or of all groups
// where group is empty, the hidden ones too: their names are without
// the brackets of lvs. A group that is not there is errNoGroup.
func listVolumes(ctx context.Context, group string) ([]logicalVolume, error) {
	args := []string{"lvm", "lvs", "--all", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", lvFields}
	if group != "" {
		args = append(args, group)
	}
	out, err := lvmRead(ctx, args...)
	if failed := (*commandError)(nil); errors.As(err, &failed) && strings.Contains(failed.words, "not found") {
		return nil, fmt.Errorf("%w: %w", errNoGroup, err)
	}
	if err != nil {
		return nil, err
	}
	return parseVolumes(out)
}

var errNoGroup = errors.New("no such volume group")

// parseVolumes reads the report of lvs. A volume that lies in
// several places has a line for each; the first stands for all.
func parseVolumes(report []byte) ([]logicalVolume, error) {
	var r struct {
		Report []struct {
			LV []logicalVolume `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return nil, fmt.Errorf("report of lvs: %w", err)
	}
	var volumes []logicalVolume
	seen := map[string]bool{}
	for _, part := range r.Report {
		for _, lv := range part.LV {
			lv.Name = strings.Trim(lv.Name, "[]")
			if !seen[lv.path()] {
				seen[lv.path()] = true
				volumes = append(volumes, lv)
			}
		}
	}
	return volumes, nil
}

func findVolume(volumes []logicalVolume, name string) *logicalVolume {
	for i := range volumes {
		if volumes[i].Name == name {
			return &volumes[i]
		}
	}
	return nil
}

// lvmLock takes the lock of LVM's programs: LOCK_SH to change something, LOCK_EX to wait
// until nobody does. Closing gives it back, once all programs that inherited it have ended.
func lvmLock(ctx context.Context, how int) (*os.File, error) {
	return takeLock(ctx, MountFolder+"/lock", how)
}

func takeLock(ctx context.Context, path string, how int) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("lock %s: %w", path, err) }
	if err := makeMountFolder(); err != nil {
		return fail(err)
	}
	lock, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err)
	}
	for end := time.Now().Add(lvmPatience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return lock, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case time.Now().Before(end):
			continue
		}
		lock.Close()
		return fail(err)
	}
}
