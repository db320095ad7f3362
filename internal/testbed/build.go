package testbed

import (
	"fmt"
	"os"
	"os/exec"
)

// Build compiles the program of a package of this module into the file out, with further flags of
// "go build". The program is static like the shipped ones. It has no symbols for a debugger: no
// test reads them, and they take a quarter of the linker's time. Build is safe for concurrent use.
func Build(out, pkg string, flags ...string) error {
	args := append([]string{"build", "-ldflags=-s -w", "-o", out}, flags...)
	c := exec.Command("go", append(args, pkg)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
