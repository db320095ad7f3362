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
var wanted = map[string]struct{ wall, cpu, added, stored float64 }{
	stepFirst:        {wall: 0.30, cpu: 0.35, stored: 1.02},
	stepAgain:        {wall: 0.25},
	stepSibling:      {wall: 0.32, cpu: 0.40},
	stepChanged:      {wall: 0.25, cpu: 0.30, added: 0.60},
	stepRestore:      {wall: 0.35, cpu: 0.35},
	stepAfterRestore: {wall: 0.15},
}

const (
	wantedPeak  = 1.0 // of the leanest peer, the largest of all steps
	wantedFloor = 1.3 // first and restore, of the floor's time
	wantedAfter = 1.0 // after-restore, of again's time
)

// The figures of a cost.
var (
	wall   = func(c cost) float64 { return c.wall.Seconds() }
	cpu    = func(c cost) float64 { return c.cpu.Seconds() }
	peak   = func(c cost) float64 { return float64(c.peak) }
	added  = func(c cost) float64 { return float64(c.added) }
	stored = func(c cost) float64 { return float64(c.stored) }
)

// The measured configurations of holdfast: as it comes, and with the level S2. Neither is a peer.
const (
	asItComes = "holdfast"
	withS2    = "holdfast-s2"
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
		if tool == asItComes || tool == withS2 || tool == stepFloor || len(bySteps[step]) == 0 {
			continue
		}
		if m := median(bySteps[step], figure); name == "" || m < least || m == least && tool < name {
			name, least = tool, m
		}
	}
	return name, least
}

// report writes the results as markdown.
func report(machine string, now time.Time, s settings, list []found, all []measured) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured side by side\n\nMade by `make bench %s` on %s: %s.\n\n", s.variables(), now.Format(time.DateOnly), machine)
	b.WriteString("Two trees, each as large as its heading says, that share what phones (or machines) of one maker share; medians of the rounds;\n" +
		"whole processes; tree, repository and caches on a file system in memory. What was restored was compared with the original.\n" +
		"A restore of holdfast ends when the disk has it; \"restore, synced\" gives the others the time that takes too.\n\n")
	if slices.Contains(s.stores, far) {
		b.WriteString("\"far\": the repository is in MinIO, behind a network of 20 ms there and back and 100 MB/s.\n\n")
	}
	for _, f := range list {
		fmt.Fprintf(&b, "- %s: %s; %s\n", f.name, strings.TrimPrefix(f.version, f.name+" "), tools[f.name].noted)
	}
	if len(all) > 1 {
		b.WriteString("\n## The worst\n\nThe largest of the ratios below, and where it is.\n\n")
		b.WriteString(table(worst(all)))
		for _, line := range worstOverall(all) {
			b.WriteString(line)
		}
	}
	b.WriteString("\n## Ratios\n\nHoldfast to the best peer in that figure; in brackets, the ratio to reach.\n")
	for _, m := range all {
		fmt.Fprintf(&b, "\n### %s: %d files, %d MiB\n\n", m.cell, m.files, m.data>>20)
		b.WriteString(table(m.ratioRows(asItComes)))
		b.WriteString("\n")
		for _, o := range m.overall() {
			fmt.Fprintf(&b, "- %s: %s\n", o.what, o.ratio)
		}
		if m.results[withS2] != nil {
			fmt.Fprintf(&b, "\n%s:\n\n%s", withS2, table(m.ratioRows(withS2)))
		}
	}
	b.WriteString("\n## Figures\n\nadded and stored are of the repository; CPU/GiB are the seconds of the processor for a GiB of the tree, as a measure of energy.\n")
	for _, m := range all {
		fmt.Fprintf(&b, "\n### %s\n\n%s", m.cell, m.figures(list))
	}
	return b.String()
}

// variables says how to make the report again.
func (s *settings) variables() string {
	var b strings.Builder
	list := func(name string, values any) {
		text := strings.Trim(fmt.Sprint(values), "[]")
		if strings.Contains(text, " ") {
			text = `"` + text + `"`
		}
		fmt.Fprintf(&b, "%s=%s ", name, text)
	}
	list("MIX", s.mixes)
	list("SIZE", s.sizes)
	list("SEED", s.seeds)
	if len(s.stores) > 1 || s.stores[0] != near {
		list("STORE", s.stores)
	}
	fmt.Fprintf(&b, "ROUNDS=%d", s.rounds)
	return b.String()
}

// ratio is a figure of holdfast against that of another.
type ratio struct {
	own, other float64
	whose      string
	want       float64 // 0: nothing
}

func (r ratio) known() bool { return r.own > 0 && r.other > 0 }

func (r ratio) value() float64 { return r.own / r.other }

// String is the ratio in words: "0.62 of restic (0.45)".
func (r ratio) String() string {
	if !r.known() {
		return "-"
	}
	text := fmt.Sprintf("%.2f of %s", r.value(), r.whose)
	if r.want > 0 {
		text += fmt.Sprintf(" (%.2f)", r.want)
	}
	return text
}

// columns are the figures of the table of ratios.
var columns = []string{"time", "CPU", "peak memory", "added bytes", "stored bytes"}

// ratios has the ratios of one step of a configuration of holdfast, by column; nil where the
// configuration was not measured in that step.
func (r results) ratios(configuration, step string) map[string]ratio {
	own := r[configuration][step]
	if len(own) == 0 {
		return nil
	}
	of := func(figure func(cost) float64, want float64) ratio {
		peer, least := r.best(step, figure)
		return ratio{median(own, figure), least, peer, want}
	}
	want := wanted[step]
	row := map[string]ratio{columns[0]: of(wall, want.wall)}
	if step == stepOnDisk {
		return row
	}
	row[columns[1]], row[columns[2]] = of(cpu, want.cpu), of(peak, 0)
	if step == stepFirst || step == stepSibling || step == stepChanged {
		row[columns[3]], row[columns[4]] = of(added, want.added), of(stored, want.stored)
	}
	return row
}

// ratioRows is a table of the steps of a configuration of holdfast.
func (m *measured) ratioRows(configuration string) [][]string {
	rows := [][]string{append([]string{"step"}, columns...)}
	for _, step := range steps {
		has := m.ratios(configuration, step)
		if has == nil {
			continue
		}
		row := []string{step}
		for _, column := range columns {
			text := ""
			if r, ok := has[column]; ok {
				text = r.String()
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return rows
}

// worst is a table of the largest ratio of each step and figure in all cells.
func worst(all []measured) [][]string {
	rows := [][]string{append([]string{"step"}, columns...)}
	for _, step := range steps {
		row, any := []string{step}, false
		for _, column := range columns {
			var largest ratio
			where := ""
			for _, m := range all {
				if r, ok := m.ratios(asItComes, step)[column]; ok && r.known() && (where == "" || r.value() > largest.value()) {
					largest, where = r, m.cell.short(all)
				}
			}
			text := ""
			if where != "" {
				text, any = largest.String()+" in "+where, true
			}
			row = append(row, text)
		}
		if any {
			rows = append(rows, row)
		}
	}
	return rows
}

func worstOverall(all []measured) (lines []string) {
	for i, o := range all[0].overall() {
		largest, where := ratio{}, ""
		for _, m := range all {
			if r := m.overall(); i < len(r) && r[i].ratio.known() && (where == "" || r[i].ratio.value() > largest.value()) {
				largest, where = r[i].ratio, m.cell.short(all)
			}
		}
		if where != "" {
			lines = append(lines, fmt.Sprintf("- %s: %s in %s\n", o.what, largest, where))
		}
	}
	if len(lines) > 0 {
		lines[0] = "\n" + lines[0]
	}
	return lines
}

// total is a ratio that is not of one step.
type total struct {
	what  string
	ratio ratio
}

// overall lists the ratios that are not of one step.
func (r results) overall() []total {
	own := r[asItComes]
	if own == nil {
		return nil
	}
	largest := func(tool string) float64 {
		var m float64
		for _, step := range steps {
			m = max(m, median(r[tool][step], peak))
		}
		return m
	}
	leanest, least := "", 0.0
	for tool := range r {
		if m := largest(tool); tool != asItComes && tool != withS2 && tool != stepFloor && (leanest == "" || m < least) {
			leanest, least = tool, m
		}
	}
	floor := func(step string) ratio {
		return ratio{median(own[step], wall), median(r[stepFloor][step], wall), "the floor", wantedFloor}
	}
	return []total{
		{"peak memory of all steps", ratio{largest(asItComes), least, leanest, wantedPeak}},
		{"time of first", floor(stepFirst)},
		{"time of restore", floor(stepRestore)},
		{"time of after-restore", ratio{median(own[stepAfterRestore], wall), median(own[stepAgain], wall), "again", wantedAfter}},
	}
}

// figures is a table of all medians, with the range of the times.
func (m *measured) figures(list []found) string {
	r := m.results
	rows := [][]string{{"step", "tool", "wall s", "from-to", "CPU s", "CPU/GiB", "peak MiB", "added MiB", "stored MiB"}}
	row := func(step, tool string, costs []cost) {
		if len(costs) == 0 {
			return
		}
		first := slices.MinFunc(costs, func(a, b cost) int { return cmp.Compare(a.wall, b.wall) })
		last := slices.MaxFunc(costs, func(a, b cost) int { return cmp.Compare(a.wall, b.wall) })
		cells := []string{
			step, tool, fmt.Sprintf("%.2f", median(costs, wall)), fmt.Sprintf("%.2f-%.2f", wall(first), wall(last)),
			fmt.Sprintf("%.2f", median(costs, cpu)), fmt.Sprintf("%.2f", median(costs, cpu)/max(float64(m.data), 1)*(1<<30)),
			fmt.Sprintf("%.0f", median(costs, peak)/(1<<20)), "", "",
		}
		if step == stepOnDisk {
			rows = append(rows, append(cells[:4], "", "", "", "", ""))
			return
		}
		if step != stepRestore && step != stepVerify {
			cells[7], cells[8] = fmt.Sprintf("%.2f", median(costs, added)/(1<<20)), fmt.Sprintf("%.1f", median(costs, stored)/(1<<20))
		}
		rows = append(rows, cells)
	}
	for _, step := range steps {
		row(step, "the floor", r[stepFloor][step])
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
