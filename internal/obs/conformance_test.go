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
	if url := os.Getenv(endlessVariable); url != "" {
		fmt.Fprintln(os.Stderr, endless(url))
		os.Exit(1)
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

// TestServers runs the suite against servers of others. HOLDFAST_LONG=1 adds those that take long to build.
func TestServers(t *testing.T) {
	servers := map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity}
	if os.Getenv("HOLDFAST_LONG") == "1" {
		servers["Rclone"] = testbed.StartRclone
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			var except []string
			if name == "Rclone" {
				except = []string{"Delete"} // it answers 500 when a name that others begin with is deleted
			}
			inPrefix := except
			if name == "Versity" {
				inPrefix = []string{"ListMany"} // it takes seconds, and is in Root
			}
			s := start(t)
			t.Run("Root", func(t *testing.T) {
				obstest.Run(t, func(t *testing.T) obs.Store {
					return open(t, s.URL(s.Bucket(t), ""), obs.Options{Getenv: s.Getenv})
				}, except...)
			})
			t.Run("Prefix", func(t *testing.T) {
				obstest.Run(t, func(t *testing.T) obs.Store {
					bucket := s.Bucket(t)
					// What lies beside the prefix stays out of sight.
					beside := open(t, s.URL(bucket, ""), obs.Options{Getenv: s.Getenv})
					for _, key := range []string{"a/pre", "a/prefix.x", "a/prefix0/k"} {
						if err := beside.Put(t.Context(), key, []byte("x")); err != nil {
							t.Fatal(err)
						}
					}
					return open(t, s.URL(bucket, "a/prefix"), obs.Options{Getenv: s.Getenv})
				}, inPrefix...)
			})
		})
	}
}
