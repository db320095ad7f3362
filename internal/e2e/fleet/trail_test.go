package fleet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trail is what happened, in order, and how often.
type trail struct {
	t     *testing.T
	began time.Time

	mu     sync.Mutex
	lines  []string
	file   *os.File // nil for a run of which nothing is kept
	counts map[string]int
	said   map[string]bool
}

func newTrail(t *testing.T) *trail {
	l := &trail{t: t, began: time.Now(), counts: map[string]int{}, said: map[string]bool{}}
	if dir := os.Getenv("HOLDFAST_FLEET_KEEP"); dir != "" {
		var err error
		if l.file, err = os.Create(filepath.Join(dir, "trail")); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.file != nil {
			_ = l.file.Close() // for people
			l.file = nil
			return
		}
		keep(t, "trail", []byte(strings.Join(l.lines, "\n")))
	})
	return l
}

func (l *trail) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := fmt.Sprintf("%8.2f ", time.Since(l.began).Seconds()) + fmt.Sprintf(format, args...)
	if l.file != nil { // also of a run that is killed
		_, _ = fmt.Fprintln(l.file, line) // for people
		return
	}
	l.lines = append(l.lines, line)
}

func (l *trail) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
}

func (l *trail) set(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] = n
}

func (l *trail) add(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += n
}

// counted is how often it was counted.
func (l *trail) counted(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[what]
}

// once is true the first time for each word.
func (l *trail) once(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.said[what]
	l.said[what] = true
	return first
}

// report says how much was done.
func (l *trail) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name := range l.counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l.t.Logf("%6d %s", l.counts[name], name)
	}
}

// begin marks something of which there is one at a time; it is false where the mark is set.
func (l *trail) begin(what string) bool { return l.once("under way: " + what) }

// over takes the mark away.
func (l *trail) over(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.said, "under way: "+what)
}

// shown is how much of a text a failed test prints, from its end on.
const shown = 100 << 10

// keep puts a text of the run into the folder that HOLDFAST_FLEET_KEEP
// names; without one, a failed test prints its end.
func keep(t *testing.T, name string, text []byte) {
	t.Helper()
	if dir := os.Getenv("HOLDFAST_FLEET_KEEP"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Error(err)
		}
	} else if t.Failed() {
		t.Logf("%s:\n%s", name, text[max(0, len(text)-shown):])
	}
}
