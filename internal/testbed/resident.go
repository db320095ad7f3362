package testbed

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Resident is the memory of this process that is in RAM, bytes.
type Resident struct {
	Anon int64 // its own memory
	File int64 // mapped files
}

func (r Resident) String() string {
	return fmt.Sprintf("%.1f MiB and %.1f MiB of files", float64(r.Anon)/(1<<20), float64(r.File)/(1<<20))
}

// ResidentMemory returns the memory of this process as the kernel counts it now.
func ResidentMemory(t testing.TB) (r Resident) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "RssAnon: %d kB", &r.Anon)
		_, _ = fmt.Sscanf(line, "RssFile: %d kB", &r.File)
	}
	return Resident{r.Anon << 10, r.File << 10}
}
