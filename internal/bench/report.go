package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// wanted are the ratios to reach, holdfast to the best of the peers.
var wanted = map[string]struct{ wall, cpu, added float64 }{
	stepFirst:   {wall: 0.45, cpu: 0.5},
	stepAgain:   {wall: 0.3},
	stepSibling: {wall: 0.4},
	stepChanged: {wall: 0.35, added: 0.5},
	stepRestore: {wall: 0.35},
}

const (
	wantedPeak   = 1.0  // of the leanest peer, the largest of all steps
	wantedStored = 1.02 // of the smallest peer
	wantedFloor  = 1.25 // first, of the floor's time
	wantedAfter  = 1.0  // after-restore, of again's time
)

// The figures of a cost.
var (
	wall   = func(c cost) float64 { return c.wall.Seconds() }
	cpu    = func(c cost) float64 { return c.cpu.Seconds() }
	peak   = func(c cost) float64 { return float64(c.peak) }
	added  = func(c cost) float64 { return float64(c.added) }
	stored = func(c cost) float64 { return float64(c.stored) }
)

// median is the middle one of a figure, the mean of the two in the
// middle where there is an even number.
func median(list []cost, figure func(cost) float64) float64 {
	values := make([]float64, len(list))
	for i, c := range list {
		values[i] = figure(c)
	}
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// best is the smallest median among the peers, and the peer's name; "" without peers.
func (r results) best(step string, figure func(cost) float64) (string, float64) {
	name, least := "", 0.0
	for tool, bySteps := range r {
		if tool == "holdfast" || tool == stepFloor || len(bySteps[step]) == 0 {
			continue
		}
		if m := median(bySteps[step], figure); name == "" || m < least || m == least && tool < name {
			name, least = tool, m
		}
	}
	return name, least
}

// report writes the results as markdown.
func report(machine string, now time.Time, s settings, data string, list []found, r results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured side by side\n\nMade by `make bench SIZE=%d ROUNDS=%d SEED=%d` on %s: %s.\n\n", s.bytes>>20, s.rounds, s.seed,
		now.Format(time.DateOnly), machine)
	fmt.Fprintf(&b, "Two trees shaped like a phone's data, of %s each, that share three of five apps; medians of the rounds;\n"+
		"whole processes; tree, repository and caches on a file system in memory. What was restored was compared with the original.\n"+
		"A restore of holdfast ends when the disk has it; \"restore, synced\" gives the others the time that takes too.\n\n", data)
	for _, f := range list {
		fmt.Fprintf(&b, "- %s: %s; %s\n", f.name, strings.TrimPrefix(f.version, f.name+" "), tools[f.name].noted)
	}
	b.WriteString("\n## Ratios\n\nHoldfast to the best peer in that figure; in brackets, what is to be reached.\n\n")
	b.WriteString(r.ratios())
	b.WriteString("\n")
	b.WriteString(r.overall())
	b.WriteString("\n## Figures\n\nadded and stored are of the repository.\n\n")
	b.WriteString(r.figures(list))
	return b.String()
}

// ratios is a table of the steps.
func (r results) ratios() string {
	rows := [][]string{{"step", "time", "CPU", "peak memory", "added bytes"}}
	for _, step := range steps {
		own := r["holdfast"][step]
		if len(own) == 0 {
			continue
		}
		want := wanted[step]
		ratio := func(figure func(cost) float64, want float64) string {
			peer, least := r.best(step, figure)
			return against(median(own, figure), least, peer, want)
		}
		if step == stepOnDisk {
			rows = append(rows, []string{step, ratio(wall, want.wall), "", "", ""})
			continue
		}
		row := []string{step, ratio(wall, want.wall), ratio(cpu, want.cpu), ratio(peak, 0), ""}
		if step == stepFirst || step == stepSibling || step == stepChanged {
			row[4] = ratio(added, want.added)
		}
		rows = append(rows, row)
	}
	return table(rows)
}

// against is a ratio in words: "0.62 of restic (0.45)".
func against(own, other float64, whose string, want float64) string {
	if other <= 0 {
		return "-"
	}
	text := fmt.Sprintf("%.2f of %s", own/other, whose)
	if want > 0 {
		text += fmt.Sprintf(" (%.2f)", want)
	}
	return text
}

// overall lists the ratios that are not of one step.
func (r results) overall() string {
	own := r["holdfast"]
	if own == nil {
		return ""
	}
	var b strings.Builder
	line := func(what, text string) { fmt.Fprintf(&b, "- %s: %s\n", what, text) }

	largest := func(tool string) float64 {
		var m float64
		for _, step := range steps {
			m = max(m, median(r[tool][step], peak))
		}
		return m
	}
	leanest, least := "", 0.0
	for tool := range r {
		if m := largest(tool); tool != "holdfast" && tool != stepFloor && (leanest == "" || m < least) {
			leanest, least = tool, m
		}
	}
	line("peak memory of all steps", against(largest("holdfast"), least, leanest, wantedPeak))
	peer, smallest := r.best(stepChanged, stored)
	line("stored after changed", against(median(own[stepChanged], stored), smallest, peer, wantedStored))
	line("time of first", against(median(own[stepFirst], wall), median(r[stepFloor][stepFirst], wall), "the floor", wantedFloor))
	line("time of after-restore", against(median(own[stepAfterRestore], wall), median(own[stepAgain], wall), "again", wantedAfter))
	return b.String()
}

// figures is a table of all medians, with the range of the times.
func (r results) figures(list []found) string {
	rows := [][]string{{"step", "tool", "wall s", "from-to", "CPU s", "peak MiB", "added MiB", "stored MiB"}}
	row := func(step, tool string, costs []cost) {
		if len(costs) == 0 {
			return
		}
		first := slices.MinFunc(costs, func(a, b cost) int { return cmp.Compare(a.wall, b.wall) })
		last := slices.MaxFunc(costs, func(a, b cost) int { return cmp.Compare(a.wall, b.wall) })
		cells := []string{
			step, tool, fmt.Sprintf("%.2f", median(costs, wall)), fmt.Sprintf("%.2f-%.2f", wall(first), wall(last)),
			fmt.Sprintf("%.2f", median(costs, cpu)), fmt.Sprintf("%.0f", median(costs, peak)/(1<<20)), "", "",
		}
		if step == stepOnDisk {
			rows = append(rows, append(cells[:4], "", "", "", ""))
			return
		}
		if step != stepRestore && step != stepVerify {
			cells[6], cells[7] = fmt.Sprintf("%.2f", median(costs, added)/(1<<20)), fmt.Sprintf("%.1f", median(costs, stored)/(1<<20))
		}
		rows = append(rows, cells)
	}
	for _, step := range steps {
		if step == stepFirst {
			row(step, "the floor", r[stepFloor][step])
		}
		for _, f := range list {
			row(step, f.name, r[f.name][step])
		}
	}
	return table(rows)
}

// table lays out rows, of which the first is the head, as a markdown table that reads
// well as it is. A cell that begins with a digit stands at the right.
func table(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if cell != "" && cell[0] >= '0' && cell[0] <= '9' {
				cell = space + cell
			} else {
				cell += space
			}
			b.WriteString("| " + cell + " ")
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// notes begins the part of a report that people write.
const notes = "\n## Notes\n"

// keepNotes writes the report to file; people's notes there stay.
func keepNotes(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if at := bytes.Index(old, []byte(notes)); at >= 0 {
		text += string(old[at:])
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// machine describes the machine of the measurements.
func machine() string {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	text := fmt.Sprintf("%d cores of %s", runtime.NumCPU(), model)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		text += fmt.Sprintf(", %d GiB of memory", (info.Totalram*uint64(info.Unit)+1<<29)>>30)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		text += ", Linux " + unix.ByteSliceToString(name.Release[:])
	}
	return text + ", " + runtime.Version()
}
