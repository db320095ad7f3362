package obs_test

import (
	"fmt"
	"os"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(writerVariable); url != "" {
		if err := writer(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testbed.LeakCheck(m)
}

func open(t *testing.T, url string, opts obs.Options) obs.Store {
	t.Helper()
	s, err := obs.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestMemory(t *testing.T) {
	obstest.Run(t, func(*testing.T) obs.Store { return obs.NewMemory() })
}

func TestMemoryDecorated(t *testing.T) {
	obstest.Run(t, func(*testing.T) obs.Store {
		return obs.Retry(obstest.NewFaulty(obs.NewMemory()), obs.RetryPolicy{})
	})
}

func TestFile(t *testing.T) {
	obstest.Run(t, func(t *testing.T) obs.Store { return open(t, "file://"+t.TempDir(), obs.Options{}) })
}

func TestMinIO(t *testing.T) {
	m := testbed.StartMinIO(t)
	t.Run("Root", func(t *testing.T) {
		obstest.Run(t, func(t *testing.T) obs.Store {
			return open(t, m.URL(m.Bucket(t), ""), obs.Options{Getenv: m.Getenv})
		})
	})
	t.Run("Prefix", func(t *testing.T) {
		obstest.Run(t, func(t *testing.T) obs.Store {
			bucket := m.Bucket(t)
			// What lies beside the prefix stays out of sight.
			beside := open(t, m.URL(bucket, ""), obs.Options{Getenv: m.Getenv})
			for _, key := range []string{"a/pre", "a/prefix.x", "a/prefix0/k"} {
				if err := beside.Put(t.Context(), key, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			return open(t, m.URL(bucket, "a/prefix"), obs.Options{Getenv: m.Getenv})
		})
	})
}
