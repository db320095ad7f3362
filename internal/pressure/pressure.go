// Package pressure tells how hard the work of a host is pressed for
// CPU, I/O and memory, and slows our own work down while it is.
//
// Package agent makes one Brake, runs it, and hands it to the engine,
// whose workers call Rest. It keeps no state outside of memory.
package pressure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// Sample says for which share of the time since the sample before, 0
// to 1, some task of the host waited for a resource that was in use.
type Sample struct {
	CPU, IO, Memory float64
}

// Source gives samples. It is for one goroutine.
type Source interface {
	// Sample looks at what happened since the call before. The first tells nothing.
	Sample() (Sample, error)
	// String says where the figures are from.
	String() string
}

// Open returns the best source that the kernel has: pressure stall
// information (Linux 4.20), or the load.
func Open() Source { return openIn("/proc", time.Now) }

func openIn(proc string, now func() time.Time) Source {
	stalls := &stalls{dir: filepath.Join(proc, "pressure"), now: now, last: map[string]uint64{}}
	if _, err := stalls.Sample(); err == nil {
		return stalls
	}
	return &load{file: filepath.Join(proc, "loadavg"), cpus: float64(runtime.NumCPU())}
}

// stalls reads /proc/pressure (https://docs.kernel.org/accounting/psi.html). The
// averages that the kernel makes lag by ten seconds, so the totals are compared.
type stalls struct {
	dir  string
	now  func() time.Time
	at   time.Time
	last map[string]uint64 // microseconds
}

func (s *stalls) String() string { return "pressure stall information" }

func (s *stalls) Sample() (Sample, error) {
	now := s.now()
	since := now.Sub(s.at)
	first := s.at.IsZero()
	s.at = now
	var got Sample
	for name, share := range map[string]*float64{"cpu": &got.CPU, "io": &got.IO, "memory": &got.Memory} {
		total, err := s.total(name)
		if err != nil {
			return Sample{}, err
		}
		if !first && since > 0 && total >= s.last[name] {
			*share = min(1, float64(total-s.last[name])/float64(since.Microseconds()))
		}
		s.last[name] = total
	}
	return got, nil
}

// total returns for how many microseconds since the start some task waited.
func (s *stalls) total(name string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return 0, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	some, ok := bytes.CutPrefix(line, []byte("some "))
	_, total, found := bytes.Cut(some, []byte(" total="))
	if !ok || !found {
		return 0, fmt.Errorf("%s/%s has no total of some: %q", s.dir, name, line)
	}
	return strconv.ParseUint(string(total), 10, 64)
}

// load takes the tasks beyond the number of processors, which wait for a processor, or
// for I/O, as a share of all: a kernel without pressure stall information tells no more.
type load struct {
	file string
	cpus float64
}

func (l *load) String() string { return "load average: the kernel has no pressure stall information" }

func (l *load) Sample() (Sample, error) {
	b, err := os.ReadFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return Sample{}, fmt.Errorf("the host tells no load: %w", err)
	} else if err != nil {
		return Sample{}, err
	}
	one, _, _ := bytes.Cut(b, []byte(" "))
	n, err := strconv.ParseFloat(string(one), 64)
	if err != nil {
		return Sample{}, fmt.Errorf("%s: %w", l.file, err)
	}
	return Sample{CPU: max(0, n-l.cpus) / max(n, 1)}, nil
}
