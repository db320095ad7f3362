package fear_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trail is what happened, in order, and how often. Its methods may be called from any goroutine.
type trail struct {
	t     *testing.T
	began time.Time

	mu     sync.Mutex
	file   *os.File // nil for a run of which nothing is kept
	lines  []string
	counts map[string]int
}

// shown is how many lines a failed test prints, from the last one on.
const shown = 400

func newTrail(t *testing.T, kind string) *trail {
	t.Helper()
	l := &trail{t: t, began: time.Now(), counts: map[string]int{}}
	if dir := os.Getenv("HOLDFAST_FEAR_KEEP"); dir != "" {
		var err error
		l.file, err = os.Create(filepath.Join(dir, "fear-"+kind))
		must(t, err)
	}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case l.file != nil:
			must(t, l.file.Close())
			l.file = nil
		case t.Failed():
			t.Logf("the trail:\n%s", strings.Join(l.lines[max(0, len(l.lines)-shown):], "\n"))
		}
	})
	return l
}

func (l *trail) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := fmt.Sprintf("%8.2f ", time.Since(l.began).Seconds()) + strings.TrimSpace(fmt.Sprintf(format, args...))
	if l.file != nil { // also of a run that is killed
		_, _ = fmt.Fprintln(l.file, line) // for people
		return
	}
	l.lines = append(l.lines, line)
}

func (l *trail) count(what string) { l.add(what, 1) }

func (l *trail) add(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += n
}

func (l *trail) set(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] = n
}

// counted is how often something happened.
func (l *trail) counted(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[what]
}

// report says how much was done.
func (l *trail) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(l.counts)) {
		l.t.Logf("%6d %s", l.counts[what], what)
	}
}
