package obs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// pipes is a listener whose connections are pipes, so that client
// and server live by a test's clock.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// meter adds up the bytes that moved in each tenth of a second.
type meter struct {
	mu    sync.Mutex
	start time.Time
	slots []int64
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := int(time.Since(m.start) / (100 * time.Millisecond))
	for len(m.slots) <= i {
		m.slots = append(m.slots, 0)
	}
	m.slots[i] += int64(n)
}

// check wants every 10 s between from and to to have moved rate bytes a second, within 5 %.
func (m *meter) check(t *testing.T, what string, from, to time.Duration, rate int64) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := int(from / (100 * time.Millisecond)); i+100 <= min(int(to/(100*time.Millisecond)), len(m.slots)); i++ {
		var sum int64
		for _, n := range m.slots[i : i+100] {
			sum += n
		}
		if want := 10 * rate; sum < want*95/100 || sum > want*105/100 {
			t.Errorf("%s: %d bytes in the 10 s after %.1f s, want %d", what, sum, float64(i)/10, want)
			return
		}
	}
}

// TestBandwidth: the bytes that a server gets and gives, over a real HTTP connection under a clock
// of the test's, keep to the limits in any 10 s, for 1 job and for 20, also after they change.
func TestBandwidth(t *testing.T) {
	const size = 4 << 20
	for _, jobs := range []int{1, 20} {
		for _, up := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				m := &meter{start: time.Now()}
				l := newPipes()
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut {
						buf := make([]byte, 4096)
						for {
							n, err := r.Body.Read(buf)
							m.add(n)
							if err != nil {
								return
							}
						}
					}
					w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
					w.Header().Set("Content-Length", fmt.Sprint(size))
					w.WriteHeader(http.StatusPartialContent)
					zeros := make([]byte, 4096)
					for range size / len(zeros) {
						n, err := w.Write(zeros)
						m.add(n)
						if err != nil {
							return
						}
					}
				})}
				go func() { _ = server.Serve(l) }()
				limiter := obs.NewLimiter(obs.Limits{Up: 1 << 20, Down: 1 << 20})
				stores := make([]obs.Store, jobs) // as several vaults of a host have
				for i := range stores {
					s, err := obs.Open(t.Context(), "s3://bucket?integrity=crc64nvme&region=r&endpoint=http://store.test", obs.WithTransport(
						obs.Options{Getenv: keys, Limiter: limiter, Retry: &once},
						func(tr *http.Transport) { tr.Proxy, tr.DialContext = nil, l.dial },
					))
					if err != nil {
						t.Fatal(err)
					}
					stores[i] = s
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for i, s := range stores {
					wg.Go(func() {
						p := make([]byte, size)
						for n := 0; ctx.Err() == nil; n++ {
							if up {
								_ = s.Put(ctx, fmt.Sprintf("k/%d/%d", i, n), p)
							} else if got, err := s.ReadAt(ctx, "k", p, 0); err != nil && ctx.Err() == nil {
								t.Errorf("read %d bytes: %v", got, err)
								return
							}
						}
					})
				}
				time.Sleep(40 * time.Second)
				limiter.Set(obs.Limits{Up: 3 << 20, Down: 3 << 20})
				time.Sleep(20 * time.Second)
				limiter.Set(obs.Limits{Up: 256 << 10, Down: 256 << 10})
				time.Sleep(30 * time.Second)
				cancel()
				wg.Wait()
				for _, s := range stores {
					_ = s.Close()
				}
				_ = server.Close()
				time.Sleep(time.Minute) // its connections linger for a moment
				what := fmt.Sprintf("%d jobs, up %v", jobs, up)
				m.check(t, what, 0, 40*time.Second, 1<<20)
				m.check(t, what+", raised", 40*time.Second, 60*time.Second, 3<<20)
				m.check(t, what+", lowered", 61*time.Second, 90*time.Second, 256<<10)
			})
		}
	}
}

// TestReceiveAhead: the kernel receives little ahead of a reader that is held back, also on
// a connection that was there before the limit, and as much as it can again without one.
func TestReceiveAhead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Range", "bytes 0-524287/524288")
		w.Header().Set("Content-Length", "524288")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, 512<<10))
	}))
	defer server.Close()
	limiter := obs.NewLimiter(obs.Limits{})
	var conns []net.Conn
	s := open(t, "s3://bucket?region=r&endpoint="+server.URL, obs.WithTransport(
		obs.Options{Getenv: keys, Limiter: limiter, Retry: &once},
		func(tr *http.Transport) {
			dial := tr.DialContext
			tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dial(ctx, network, address)
				conns = append(conns, c)
				return c, err
			}
		},
	))
	var sizes []int
	for _, down := range []int64{0, 2 << 20, 0} {
		limiter.Set(obs.Limits{Down: down})
		if _, err := s.ReadAt(t.Context(), "k", make([]byte, 512<<10), 0); err != nil {
			t.Fatal(err)
		}
		size, err := obs.ReceiveBuffer(conns[0])
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size)
	}
	if len(conns) != 1 || sizes[1] > 64<<10 || sizes[0] < 128<<10 || sizes[2] < 128<<10 {
		t.Errorf("%d connections, receive buffers without, with and without a limit: %d", len(conns), sizes)
	}
}

// TestRequestsAndOtherStores: requests a second, and the bytes of a
// store that does not pace them itself.
func TestRequestsAndOtherStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := obs.NewLimiter(obs.Limits{Requests: 50})
		s := limiter.Store(obs.NewMemory())
		start := time.Now()
		for i := range 500 {
			if err := s.Put(t.Context(), fmt.Sprint("k", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 9500*time.Millisecond || took > 10500*time.Millisecond {
			t.Errorf("500 requests at 50 a second took %v", took)
		}
		limiter.Set(obs.Limits{Up: 1 << 20, Down: 2 << 20})
		start = time.Now()
		if err := s.Put(t.Context(), "big", make([]byte, 10<<20)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 9500*time.Millisecond || took > 10500*time.Millisecond {
			t.Errorf("10 MiB up at 1 MiB/s took %v", took)
		}
		start = time.Now()
		if _, err := s.ReadAt(t.Context(), "big", make([]byte, 10<<20), 0); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 4500*time.Millisecond || took > 5500*time.Millisecond {
			t.Errorf("10 MiB down at 2 MiB/s took %v", took)
		}
	})
}

// service is a store by a clock: it does up to capacity requests at their full speed
// and shares it among more, and refuses requests above refuse.
type service struct {
	obs.Store
	mu               sync.Mutex
	capacity, refuse int
	inFlight, peak   int
	changed          time.Time     // the last change of inFlight
	busy             time.Duration // the sum of the times that all requests were in flight until changed
	done             int
	refused          int
}

// count adds change to the requests in flight. The caller holds mu.
func (s *service) count(change int) {
	s.busy += time.Duration(s.inFlight) * time.Since(s.changed)
	s.changed = time.Now()
	s.inFlight += change
}

func (s *service) Put(ctx context.Context, _ string, _ []byte) error {
	s.mu.Lock()
	s.count(1)
	s.peak = max(s.peak, s.inFlight)
	took := 500 * time.Millisecond * time.Duration(max(s.inFlight, s.capacity)) / time.Duration(s.capacity)
	refused := s.refuse > 0 && s.inFlight > s.refuse
	if refused {
		took = 10 * time.Millisecond
		s.refused++
	} else {
		s.done++
	}
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.count(-1)
	s.mu.Unlock()
	if refused {
		return obs.SlowDownError(errors.New("slow down"))
	}
	return ctx.Err()
}

// run puts from many goroutines for a while, and returns how many puts a second were done,
// and how many requests were in flight on average. The level goes up and down while it looks for
// a better one, so its average is a fact about the limiter, and its last value is chance.
func (s *service) run(t *testing.T, store obs.Store, jobs int, how time.Duration) (rate, level float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), how)
	defer cancel()
	s.mu.Lock()
	s.count(0)
	before, busy := s.done, s.busy
	s.mu.Unlock()
	body := make([]byte, 1<<20)
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := store.Put(ctx, "k", body); err != nil {
					time.Sleep(20 * time.Millisecond) // as Retry would
				}
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(0)
	return float64(s.done-before) / how.Seconds(), (s.busy - busy).Seconds() / how.Seconds()
}

// TestLevel: requests in flight find the level at which a service
// does all that it can, and not many more.
func TestLevel(t *testing.T) {
	for _, capacity := range []int{3, 12, 50} {
		synctest.Test(t, func(t *testing.T) {
			s := &service{capacity: capacity}
			limiter := obs.NewLimiter(obs.Limits{})
			store := limiter.Store(s)
			s.run(t, store, 100, 2*time.Minute)
			rate, level := s.run(t, store, 100, time.Minute)
			if most := float64(capacity * 2); rate < 0.9*most {
				t.Errorf("capacity %d: %.0f puts a second at level %.1f, it can do %.0f", capacity, rate, level, most)
			}
			if level > float64(capacity)*1.5+8 {
				t.Errorf("capacity %d: level %.1f", capacity, level)
			}
			// The service gets slower, and then faster than ever.
			s.mu.Lock()
			s.capacity = max(1, capacity/4)
			s.mu.Unlock()
			s.run(t, store, 100, 3*time.Minute)
			if _, level := s.run(t, store, 100, time.Minute); level > float64(max(1, capacity/4))*1.5+8 {
				t.Errorf("capacity %d fell to a quarter: level %.1f", capacity, level)
			}
			s.mu.Lock()
			s.capacity = 40
			s.mu.Unlock()
			s.run(t, store, 100, 4*time.Minute)
			rate, level = s.run(t, store, 100, time.Minute)
			if rate < 0.85*80 {
				t.Errorf("capacity %d grew to 40: %.0f puts a second of 80, level %.1f", capacity, rate, level)
			}
		})
	}
}

// mixture is a store by a clock whose requests differ as a backup's do: each takes 25 ms,
// and its bytes take more the more of them are under way. Times vary by a fifth either way.
type mixture struct {
	obs.Store
	mu       sync.Mutex
	r        *rand.Rand
	capacity int // how many packs at once it takes at its full speed, of 32 MiB/s each
	packs    int // under way
	bytes    int64
}

func (m *mixture) Put(ctx context.Context, _ string, body []byte) error {
	big := len(body) >= 1<<20
	m.mu.Lock()
	if big {
		m.packs++
	}
	took := 25*time.Millisecond + time.Duration(len(body))*(time.Second/(32<<20))*time.Duration(max(m.packs, m.capacity))/time.Duration(m.capacity)
	took = time.Duration(float64(took) * (0.8 + 0.4*m.r.Float64()))
	m.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if big {
		m.packs--
	}
	if ctx.Err() == nil {
		m.bytes += int64(len(body))
	}
	return ctx.Err()
}

// run puts from many goroutines for a while, so that one second a pack stands for a share of the
// requests and the next second for another, and returns how many bytes a second were stored.
func (m *mixture) run(t *testing.T, store obs.Store, jobs int, how, every time.Duration, shares [2]float64) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), how)
	defer cancel()
	pack := make([]byte, 16<<20)
	start, before := time.Now(), m.bytes
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for ctx.Err() == nil {
				m.mu.Lock()
				size := 1000 + m.r.IntN(100_000)
				if m.r.Float64() < shares[time.Since(start)/every%2] {
					size = len(pack)
				}
				m.mu.Unlock()
				if err := store.Put(ctx, "k", pack[:size]); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return int64(float64(m.bytes-before) / how.Seconds())
}

// TestLevelOfMixedRequests: requests of many sizes, now more of the small and now of the large
// as the jobs of a batch make them, do not look like a store that gets slow and fast again.
func TestLevelOfMixedRequests(t *testing.T) {
	for _, c := range []struct {
		capacity int
		every    time.Duration
		shares   [2]float64 // of packs
	}{
		{4, time.Second, [2]float64{1, 0}},
		{8, time.Second, [2]float64{1, 0}},
		{20, time.Second, [2]float64{1, 0}},
		{8, 300 * time.Millisecond, [2]float64{1, 0}},
		{8, 3 * time.Second, [2]float64{0.9, 0.02}},
		{20, 10 * time.Second, [2]float64{0.3, 0}},
		{8, time.Second, [2]float64{0.4, 0.2}},
	} {
		synctest.Test(t, func(t *testing.T) {
			fresh := func() *mixture { return &mixture{r: rand.New(rand.NewPCG(1, 1)), capacity: c.capacity} }
			m := fresh()
			// this store gets no worse by too many
			most := m.run(t, m, 64, 5*time.Minute, c.every, c.shares)
			m = fresh()
			limiter := obs.NewLimiter(obs.Limits{})
			got := m.run(t, limiter.Store(m), 100, 5*time.Minute, c.every, c.shares)
			t.Logf("capacity %d, shares %v for %v each: %d MiB/s of %d", c.capacity, c.shares, c.every, got>>20, most>>20)
			if got < most*85/100 {
				t.Errorf("capacity %d, shares %v for %v each: %d MiB/s at level %d, it can do %d", c.capacity, c.shares, c.every, got>>20, limiter.State().Level, most>>20)
			}
		})
	}
}

// TestLevelObeys: a service that refuses excess requests gets fewer of them, and hardly
// refuses any more.
func TestLevelObeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{capacity: 100, refuse: 10}
		limiter := obs.NewLimiter(obs.Limits{})
		store := limiter.Store(s)
		s.run(t, store, 100, time.Minute)
		before := s.refused
		rate, _ := s.run(t, store, 100, 2*time.Minute)
		if share := float64(s.refused-before) / float64(s.refused-before+int(rate*120)); share > 0.05 {
			t.Errorf("%.1f %% of the requests are refused", share*100)
		}
		if rate < 12 {
			t.Errorf("%.0f puts a second, it would take 20", rate)
		}
	})
}

// TestInFlight: the limit holds for all stores of a host together, and can be changed;
// a call that leaves the queue does not take a slot.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{capacity: 100}
		limiter := obs.NewLimiter(obs.Limits{InFlight: 4})
		a, b := limiter.Store(s), limiter.Store(s)
		var wg sync.WaitGroup
		wg.Go(func() { s.run(t, a, 50, 10*time.Second) })
		wg.Go(func() { s.run(t, b, 50, 10*time.Second) })
		time.Sleep(5250 * time.Millisecond) // between two ends of requests
		if st := limiter.State(); st.InFlight != 4 || st.Waiting != 96 || st.Level != 4 || st.Limits.InFlight != 4 {
			t.Errorf("state %+v", st)
		}
		wg.Wait()
		if s.peak != 4 {
			t.Errorf("%d at once, want 4", s.peak)
		}
		if st := limiter.State(); st.InFlight != 0 || st.Waiting != 0 {
			t.Errorf("all are gone, state %+v", st)
		}
		// A canceled call tells why, as a store does.
		limiter.Set(obs.Limits{InFlight: 1})
		block := make(chan struct{})
		f := obstest.NewFaulty(obs.NewMemory())
		f.Inject(obstest.Fault{Op: obstest.Put, Times: 1, Block: block})
		held := limiter.Store(f)
		wg.Go(func() { _ = held.Put(t.Context(), "k", nil) })
		synctest.Wait()
		why := errors.New("the reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		wg.Go(func() {
			err := held.Put(ctx, "l", nil)
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
				t.Errorf("error %v", err)
			}
		})
		synctest.Wait()
		cancel(why)
		synctest.Wait()
		close(block)
		wg.Wait()
		if err := held.Put(t.Context(), "m", nil); err != nil {
			t.Error(err)
		}
	})
}

// TestLimitedStores runs the suite within a budget.
func TestLimitedStores(t *testing.T) {
	limiter := obs.NewLimiter(obs.Limits{Up: 1 << 30, Down: 1 << 30, Requests: 1e6})
	obstest.Run(t, func(t *testing.T) obs.Store {
		return open(t, "file://"+t.TempDir(), obs.Options{Create: true, Limiter: limiter})
	})
	if st := limiter.State(); st.InFlight != 0 || st.Waiting != 0 {
		t.Errorf("at the end: %+v", st)
	}
}
