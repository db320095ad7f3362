package pressure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/testbed"
)

func TestMain(m *testing.M) { testbed.LeakCheck(m) }

func write(t *testing.T, proc, name, text string) {
	t.Helper()
	path := filepath.Join(proc, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func stall(t *testing.T, proc string, cpu, io, memory int) {
	for name, n := range map[string]int{"cpu": cpu, "io": io, "memory": memory} {
		write(t, proc, "pressure/"+name, fmt.Sprintf("some avg10=99.00 avg60=0.00 avg300=0.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n", n))
	}
}

func TestStallsAreSharesOfTheTimeBetween(t *testing.T) {
	proc := t.TempDir()
	stall(t, proc, 5_000_000, 1, 2)
	now := time.Unix(1000, 0)
	s := openIn(proc, func() time.Time { return now })
	now = now.Add(2 * time.Second)
	stall(t, proc, 5_500_000, 2_000_001, 10_000_000)
	got, err := s.Sample()
	if want := (Sample{CPU: 0.25, IO: 1, Memory: 1}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if again, err := s.Sample(); err != nil || again != (Sample{}) {
		t.Errorf("in no time: %+v, %v", again, err)
	}
	write(t, proc, "pressure/io", "nothing of the kind")
	if _, err := s.Sample(); err == nil {
		t.Error("a file of another form is taken")
	}
}

func TestLoadWhereTheKernelTellsNoStalls(t *testing.T) {
	proc := t.TempDir()
	write(t, proc, "loadavg", "8.00 1.00 1.00 3/100 4711\n")
	s := openIn(proc, time.Now).(*load)
	s.cpus = 2
	if got, err := s.Sample(); err != nil || got != (Sample{CPU: 0.75}) {
		t.Errorf("%+v, %v", got, err)
	}
	write(t, proc, "loadavg", "0.50 1.00 1.00 3/100 4711\n")
	if got, err := s.Sample(); err != nil || got != (Sample{}) {
		t.Errorf("%+v, %v", got, err)
	}
	write(t, proc, "loadavg", "much")
	if _, err := s.Sample(); err == nil {
		t.Error("a file of another form is taken")
	}
}

func TestThisHostTells(t *testing.T) {
	s := Open()
	for range 2 {
		if _, err := s.Sample(); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// feed is a source that gives the test's figures.
type feed struct {
	sample Sample
	err    error
}

func (f *feed) Sample() (Sample, error) { return f.sample, f.err }
func (f *feed) String() string          { return "test" }

func TestBrakeFollowsThePressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b, f := NewBrake(Limits{CPU: 0.5, IO: 0.4}), &feed{}
		var told []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Run(ctx, f, func(pace float64, why string) { told = append(told, fmt.Sprintf("%.2f %s", pace, why)) })
		}()
		after := func(d time.Duration, s Sample, err error) (float64, string) {
			f.sample, f.err = s, err
			time.Sleep(d)
			synctest.Wait()
			return b.State()
		}
		if pace, why := after(time.Minute, Sample{CPU: 0.4, IO: 0.3, Memory: 1}, nil); pace != 1 || why != "" {
			t.Errorf("not pressed: %v %q", pace, why)
		}
		if pace, why := after(every, Sample{IO: 0.9}, nil); pace != 0.5 || why != "tasks of the host wait for io 90% of the time" {
			t.Errorf("pressed: %v %q", pace, why)
		}
		begin := time.Now()
		if err := b.Rest(ctx, 100*time.Millisecond); err != nil || time.Since(begin) != 100*time.Millisecond {
			t.Errorf("rested for %v, %v", time.Since(begin), err)
		}
		if pace, _ := after(time.Minute, Sample{CPU: 1}, nil); pace != least {
			t.Errorf("pressed for long: %v", pace)
		}
		begin = time.Now()
		if err := b.Rest(ctx, time.Hour); err != nil || time.Since(begin) != longest {
			t.Errorf("rested for %v, %v", time.Since(begin), err)
		}
		if pace, why := after(3*time.Second, Sample{}, nil); pace != 1 || why != "" {
			t.Errorf("three seconds after the pressure: %v %q", pace, why)
		}
		after(time.Minute, Sample{CPU: 1}, nil)
		if pace, _ := after(every, Sample{}, errors.New("gone")); pace != 1 {
			t.Errorf("nothing is told any more: %v", pace)
		}
		after(time.Minute, Sample{CPU: 1}, nil)
		stop()
		<-done
		if pace, _ := b.State(); pace != 1 {
			t.Errorf("after the end: %v", pace)
		}
		if err := b.Rest(ctx, time.Hour); err != nil {
			t.Error(err)
		}
		if len(told) == 0 || told[0] != "0.50 tasks of the host wait for io 90% of the time" {
			t.Errorf("told %q", told)
		}
	})
	var none *Brake
	if err := none.Rest(t.Context(), time.Hour); err != nil {
		t.Error(err)
	}
}

func TestRestEndsWithItsContext(t *testing.T) {
	b := NewBrake(Limits{CPU: 0.1})
	b.look(Sample{CPU: 1}, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := b.Rest(ctx, time.Hour); !errors.Is(err, why) {
		t.Error(err)
	}
}
