package obs_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/obs/proxytest"
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
	obstest.Run(t, func(t *testing.T) obs.Store { return open(t, "file://"+t.TempDir(), obs.Options{Create: true}) })
}

// TestServers runs the suite against servers of other projects. HOLDFAST_LONG=1 adds
// the servers that take long to build.
func TestServers(t *testing.T) {
	servers := map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity}
	if os.Getenv("HOLDFAST_LONG") == "1" {
		servers["Rclone"] = testbed.StartRclone
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			var except []string
			if name == "Rclone" {
				// it answers 500 when a name that others begin with is deleted
				except = []string{"Delete"}
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
					// Objects beside the prefix stay out of sight.
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

// lockedKey asks for the retention that RunLock wants.
func lockedKey(key string, asked time.Duration) time.Duration {
	if strings.HasPrefix(key, "locked/") {
		return asked
	}
	return 0
}

func TestLock(t *testing.T) {
	const retain = 24 * time.Hour
	t.Run("Memory", func(t *testing.T) {
		s := obs.NewLockedMemory(retain, lockedKey)
		obstest.RunLock(t, s)
		if err := s.Delete(t.Context(), "free/none", "locked/k"); !errors.Is(err, obs.ErrAccess) {
			t.Errorf("Delete of a locked object: %v, want ErrAccess", err)
		}
	})
	t.Run("Decorated", func(t *testing.T) {
		s := obs.NewLimiter(obs.Limits{}).Store(obstest.NewChaos(obstest.NewFaulty(obs.NewLockedMemory(retain, lockedKey)), 1, obstest.Odds{}))
		obstest.RunLock(t, obs.Retry(s, obs.RetryPolicy{}))
	})
	for name, start := range map[string]func(testing.TB) *testbed.S3{"MinIO": testbed.StartMinIO, "Versity": testbed.StartVersity} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			opts := obs.Options{Getenv: m.Getenv, Retention: lockedKey, Observe: func(obs.Event) {}}
			obstest.RunLock(t, open(t, m.URL(m.LockedBucket(t), "v")+"&retain=24h", opts))
			// The same objects can't be locked in a bucket without lock, and that is said.
			plain := open(t, m.URL(m.Bucket(t), "")+"&retain=24h", opts)
			if err := plain.Put(t.Context(), "free/k", nil); err != nil {
				t.Fatal(err)
			}
			err := plain.Extend(t.Context(), "free/k", time.Now().Add(time.Hour))
			// Versity keeps a lock in every bucket
			if name != "Versity" && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Extend in a bucket without lock: %v", err)
			}
		})
	}
	t.Run("StrictOBS", func(t *testing.T) {
		m := testbed.StartMinIO(t)
		opts := obs.Options{Getenv: keys, Retention: lockedKey, Retry: &once}
		p := strict(t, m, proxytest.Options{WORM: true})
		s := open(t, atStrict(m.Bucket(t), "/v")+"&retain=24h", viaStrict(p, opts))
		obstest.RunLock(t, s)
		if err := s.Delete(t.Context(), "locked/k"); !errors.Is(err, obs.ErrAccess) {
			t.Errorf("Delete of a locked object: %v, want ErrAccess", err)
		}
		for name, c := range map[string]proxytest.Options{"no WORM": {}, "says that it did": {WORM: true, IgnoreLock: true}} {
			s := open(t, atStrict(m.Bucket(t), "")+"&retain=24h", viaStrict(strict(t, m, c), opts))
			if err := s.Put(t.Context(), "free/k", nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Extend(t.Context(), "free/k", time.Now().Add(time.Hour)); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Extend at an OBS, %s: %v", name, err)
			}
		}
	})
}
