package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"holdfast/internal/pattern"
	"holdfast/internal/tree"
)

// progress shows how far a long command is: a bar on a terminal, JSON lines with --json,
// nothing on a pipe or with --quiet. set, expect and finish may be called from any goroutine.
type progress struct {
	bars *mpb.Progress // nil: no bar
	bar  *mpb.Bar
	emit func(progressLine) // nil: no lines

	app      *app
	mu       sync.Mutex // also held while a line is printed
	last     progressLine
	emitted  time.Time
	finished bool
}

// progressLine is one JSON line while a command works. Sizes are bytes.
type progressLine struct {
	Type    string `json:"type"` // "progress"
	Bytes   uint64 `json:"bytes"`
	Total   uint64 `json:"total_bytes,omitempty"` // 0: not known (yet)
	Files   uint64 `json:"files,omitempty"`
	Entries uint64 `json:"entries,omitempty"`
	New     uint64 `json:"new_bytes,omitempty"`  // not in the vault before
	Sent    uint64 `json:"sent_bytes,omitempty"` // after compression
}

// warningLine is a tree.Warning as a JSON line. Path has U+FFFD where the name is not UTF-8; then
// PathBytes has the very bytes.
type warningLine struct {
	Type      string `json:"type"` // "warning"
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"`
	What      string `json:"what"`
	Lost      bool   `json:"lost"` // the backup lacks content there
}

// linePause is the shortest time between two JSON progress lines: often enough to follow, seldom
// enough that a log of a long job stays readable.
const linePause = time.Second

// newProgress starts the display of one piece of work. finish must be called once.
func (a *app) newProgress(what string) *progress {
	p := &progress{app: a}
	p.last.Type = "progress"
	switch {
	case a.json && !a.quiet:
		p.emit = func(l progressLine) { _ = a.line(l) }
		p.emitted = time.Now()
	case a.terminal && !a.json && !a.quiet:
		m := newMeter(time.Now())
		p.bars = mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40), mpb.WithAutoRefresh())
		p.bar = p.bars.New(0, barStyle{},
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(what+" ")),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
				return " " + m.text(time.Now(), s.Current, s.Total)
			})),
		)
		a.printing.Lock()
		a.bars = p.bars
		a.printing.Unlock()
	}
	return p
}

// barStyle is a bar that is not drawn while nobody knows how long it is.
type barStyle struct{}

func (barStyle) Build() mpb.BarFiller {
	bar := mpb.BarStyle().Padding(" ").Build()
	return mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		if s.Total <= 0 {
			return nil
		}
		return bar.Fill(w, s)
	})
}

// expect tells the total, once it is known; 0 means that it stays unknown.
func (p *progress) expect(total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last.Total = total
	if p.bar != nil && !p.finished {
		p.bar.SetTotal(int64(total), false)
	}
}

// set tells how much is done; the fields of l other than Type and Total count.
func (p *progress) set(l progressLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	l.Type, l.Total = p.last.Type, p.last.Total
	p.last = l
	if p.bar != nil {
		// A tree that grows while it is read would complete the bar early.
		if l.Total > 0 && l.Bytes >= l.Total {
			p.bar.SetTotal(int64(l.Bytes)+1, false)
		}
		p.bar.SetCurrent(int64(l.Bytes))
	}
	if p.emit != nil && time.Since(p.emitted) >= linePause {
		p.emitted = time.Now()
		p.emit(l)
	}
}

// finish takes the bar away, so that what follows has the terminal for itself.
func (p *progress) finish() {
	p.mu.Lock()
	done := p.finished
	p.finished = true
	p.mu.Unlock()
	if done || p.bar == nil {
		return
	}
	p.bar.SetTotal(-1, true)
	p.bars.Wait()
	p.app.printing.Lock()
	p.app.bars = nil
	p.app.printing.Unlock()
}

// print writes a line to stdout, above the bar where both are on the terminal.
func (p *progress) print(line string) error {
	if p.bars != nil && p.app.outTerminal {
		_, err := p.bars.Write([]byte(line + "\n"))
		return err
	}
	_, err := fmt.Fprintln(p.app.stdout, line)
	return err
}

// warn lists something that could not be kept exact: with --json as
// a line on stdout, else on stderr, above the bar.
func (p *progress) warn(w tree.Warning) {
	if p.app.json {
		j := warningLine{Type: "warning", Path: w.Path, What: sentence(w.What), Lost: w.Lost}
		if !utf8.ValidString(w.Path) {
			j.PathBytes = []byte(w.Path)
		}
		_ = p.app.line(j) // an error of stdout shows at the result
		return
	}
	if w.NoPlace {
		p.app.beside("warning: %s", sentence(w.What))
		return
	}
	path := w.Path
	if path == "" {
		path = "."
	}
	p.app.beside("warning: %s: %s", name(path), sentence(w.What))
}

// meter turns byte counts into the words beside a bar: the bytes done, the rate of the
// last seconds, the time left. It is for one goroutine (the goroutine that draws).
type meter struct {
	samples []point // oldest first, at most meterWindow old
}

type point struct {
	at    time.Time
	bytes int64
}

// meterWindow is the time that the shown rate looks back on: long enough to
// smooth packs of 16 MiB over a slow line, short enough to show a stall.
const meterWindow = 10 * time.Second

func newMeter(now time.Time) *meter {
	return &meter{samples: []point{{at: now}}}
}

// text describes done of total bytes at the time now; a total of 0 is unknown.
func (m *meter) text(now time.Time, done, total int64) string {
	m.samples = append(m.samples, point{now, done})
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= meterWindow {
		m.samples = m.samples[1:]
	}
	first := m.samples[0]
	rate := 0.0 // bytes per second
	if span := now.Sub(first.at).Seconds(); span > 0 && done > first.bytes {
		rate = float64(done-first.bytes) / span
	}
	out := size(done)
	if total > done {
		out += " of " + size(total)
	}
	out += fmt.Sprintf("  %s/s", size(int64(rate)))
	if total > done && rate > 0 {
		out += "  " + clock(time.Duration(float64(total-done)/rate*float64(time.Second))) + " left"
	}
	return out
}

// scan counts the bytes below path beside the work, so that the bar gets a total. It returns a
// function that stops the count and waits for it. Without a bar or lines nothing is counted.
func (p *progress) scan(ctx context.Context, path string, exclude *pattern.Set) func() {
	if p.bar == nil && p.emit == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if total, err := treeSize(ctx, path, exclude); err == nil {
			p.expect(total)
		}
	}()
	return func() { cancel(); <-ended }
}
