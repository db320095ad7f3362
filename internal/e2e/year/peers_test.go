package year_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// peer is a program that plays the year of one instance. Its functions return command lines.
type peer struct {
	name    string
	env     []string
	repo    string // folder of the repository; "" where the store counts
	initial [][]string
	backup  func(dir string, at time.Time) []string
	week    func(dir string) [][]string // after the backup of the seventh day
	restore func(dir, to string) []string
	below   bool // a restored tree lies below the folder under its whole path

	first, last, prune, restored time.Duration
	walls                        []time.Duration
	cpu                          time.Duration
	peak                         int64
	stored                       int64
	files                        int
}

const password = "correct horse battery staple"

// stamp is a time as restic and kopia take it.
const stamp = "2006-01-02 15:04:05"

// peers plays the year of one instance with each program that is there, all side by side on volumes
// of their own that change alike, and writes a table.
func (y *year) peers(w io.Writer) {
	var all []*peer
	for _, p := range []*peer{y.holdfast(), y.restic(), y.kopia()} {
		if p != nil {
			all = append(all, p)
		}
	}
	var g errgroup.Group
	for _, p := range all[1:] { // holdfast has the clock that all others of this process have too
		g.Go(func() error { return y.alone(p) })
	}
	must(y.t, g.Wait())
	must(y.t, y.alone(all[0]))
	fmt.Fprintf(w, "\nThe same year of one instance; the repositories of the others are folders.\n\n")
	fmt.Fprintln(w, "| tool | MB stored | objects | backup s, day 2 to 8 | last week | CPU s of the year | week's prune s | restore s | peak MiB |")
	fmt.Fprintln(w, "|"+strings.Repeat("---|", 9))
	for _, p := range all {
		fmt.Fprintf(w, "| %s | %.1f | %d | %.3f | %.3f | %.1f | %.2f | %.3f | %d |\n", p.name, float64(p.stored)/mb, p.files, p.first.Seconds(), p.last.Seconds(),
			p.cpu.Seconds(), p.prune.Seconds(), p.restored.Seconds(), p.peak>>20)
	}
}

// alone plays the year of one instance with one program.
func (y *year) alone(p *peer) error {
	dir := filepath.Join(y.dir, "alone-"+p.name)
	if err := os.MkdirAll(filepath.Join(dir, "home"), 0o755); err != nil {
		return err
	}
	i, err := newInstance(filepath.Join(dir, "volume"), 0, y.seed)
	if err != nil {
		return err
	}
	run := func(args []string) (time.Duration, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home")}, p.env...)
		c, err := measure(cmd)
		p.cpu += c.cpu
		p.peak = max(p.peak, c.peak)
		return c.wall, err
	}
	for _, args := range p.initial {
		if _, err := run(args); err != nil {
			return err
		}
	}
	var prunes []time.Duration
	for n := range y.days {
		at := begin.Add(time.Duration(n) * day)
		if p.repo == "" {
			y.dawn(n)
		}
		if n > 0 {
			if err := i.day(); err != nil {
				return err
			}
		}
		wall, err := run(p.backup(i.dir, at))
		if err != nil {
			return err
		}
		if n > 0 {
			p.walls = append(p.walls, wall)
		}
		if n%7 != 6 {
			continue
		}
		start := time.Now()
		for _, args := range p.week(i.dir) {
			if _, err := run(args); err != nil {
				return err
			}
		}
		prunes = append(prunes, time.Since(start))
	}
	to := filepath.Join(dir, "restored")
	if p.restored, err = run(p.restore(i.dir, to)); err != nil {
		return err
	}
	if p.below {
		to = filepath.Join(to, i.dir)
	}
	if err := same(i.dir, to); err != nil {
		return fmt.Errorf("%s restores otherwise: %w", p.name, err)
	}
	p.first, p.last, p.prune = median(p.walls[:min(7, len(p.walls))]), median(p.walls[max(0, len(p.walls)-7):]), median(prunes)
	return p.size()
}

// size counts the files of the repository.
func (p *peer) size() error {
	if p.repo == "" {
		return nil
	}
	return filepath.WalkDir(p.repo, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			p.files, p.stored = p.files+1, p.stored+info.Size()
		}
		return err
	})
}

func (y *year) holdfast() *peer {
	s := &store{now: y.now, objects: map[string]object{}}
	key := filepath.Join(y.dir, "key")
	p := &peer{
		name: "holdfast",
		env: append(y.clock.Env(), "HOLDFAST_STORE="+s.open(y.t).url, "HOLDFAST_KEY="+key, "HOLDFAST_VAULT=alone",
			"AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=asks"),
		initial: [][]string{{y.program, "vault", "create"}},
		backup: func(dir string, _ time.Time) []string {
			return []string{y.program, "backup", "--quiet", "--snapshot", "off", "--instance", "cp-1", dir}
		},
		week: func(string) [][]string {
			return [][]string{
				append([]string{y.program, "forget", "--quiet", "--all", "--max-share", "100"}, keep...),
				{y.program, "prune", "--quiet", "--grace", "0s"},
			}
		},
	}
	p.restore = func(_, to string) []string {
		p.files, p.stored = s.size()
		return []string{y.program, "restore", "--quiet", "--instance", "cp-1", to}
	}
	return p
}

func (y *year) restic() *peer {
	bin, err := exec.LookPath("restic")
	if err != nil {
		return nil
	}
	repo := filepath.Join(y.dir, "alone-restic", "repo")
	return &peer{
		name: "restic", repo: repo, below: true,
		env:     []string{"RESTIC_REPOSITORY=" + repo, "RESTIC_PASSWORD=" + password},
		initial: [][]string{{bin, "init"}},
		backup: func(dir string, at time.Time) []string {
			return []string{bin, "backup", "--quiet", "--time", at.Format(stamp), dir}
		},
		week: func(string) [][]string {
			return [][]string{append([]string{bin, "forget", "--quiet", "--prune"}, keep...)}
		},
		restore: func(_, to string) []string { return []string{bin, "restore", "latest", "--quiet", "--target", to} },
	}
}

func (y *year) kopia() *peer {
	bin, err := exec.LookPath("kopia")
	if err != nil {
		return nil
	}
	dir := filepath.Join(y.dir, "alone-kopia")
	repo := filepath.Join(dir, "repo")
	return &peer{
		name: "kopia", repo: repo,
		env: []string{
			"KOPIA_PASSWORD=" + password, "KOPIA_CONFIG_PATH=" + filepath.Join(dir, "config"), "KOPIA_CACHE_DIRECTORY=" + filepath.Join(dir, "cache"),
			"KOPIA_LOG_DIR=" + filepath.Join(dir, "log"), "KOPIA_CHECK_FOR_UPDATES=false",
		},
		initial: [][]string{
			{bin, "repository", "create", "filesystem", "--path", repo},
			{
				bin, "policy", "set", "--global", "--compression", "zstd-fastest", "--keep-latest", "1", "--keep-hourly", "0", "--keep-daily", "7",
				"--keep-weekly", "4", "--keep-monthly", "6", "--keep-annual", "0",
			},
		},
		backup: func(dir string, at time.Time) []string {
			when := at.Format(stamp) + " UTC"
			return []string{bin, "snapshot", "create", "--no-progress", "--start-time", when, "--end-time", when, dir}
		},
		week: func(string) [][]string {
			// Without safety, since the clock of kopia stands still.
			return [][]string{{bin, "snapshot", "expire", "--all", "--delete"}, {bin, "maintenance", "run", "--full", "--safety", "none"}}
		},
		restore: func(dir, to string) []string { return []string{bin, "restore", "--no-progress", dir, to} },
	}
}
