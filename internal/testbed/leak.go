package testbed

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// LeakCheck runs the tests of a package and ends the process; it
// fails when a goroutine outlives the tests. It is the whole of a
// TestMain. The shared container engine is stopped before the check.
func LeakCheck(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if err := stopSharedDocker(); err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		code = max(code, 1)
	}
	if code == 0 {
		// The links of a Toxic may wait for ever for a connection that is gone.
		for _, f := range []string{"/toxics.(*ToxicStub).Run", ".(*ToxicLink).read", ".(*ToxicLink).write"} {
			options = append(options, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2"+f))
		}
		if err := FindLeak(options...); err != nil {
			fmt.Fprintln(os.Stderr, "a goroutine outlives the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// FindLeak is an error when a goroutine goes on. It gives goroutines that are about to
// end time to do so: the patience of goleak is less than half a second.
func FindLeak(options ...goleak.Option) error {
	for end := time.Now().Add(30 * time.Second); ; {
		if err := goleak.Find(options...); err == nil || time.Now().After(end) {
			return err
		}
	}
}
