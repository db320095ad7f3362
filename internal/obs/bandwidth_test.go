package obs_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// BenchmarkBandwidth is TestBandwidth in real time and by the real network of this
// machine: packs go to and come from MinIO under a limit, by 1 job and by 20, and a
// relay before the server counts the bytes. It prints how far the 10 s with the fewest
// and with the most bytes are from the limit, in per cent; HTTP's headers count too.
func BenchmarkBandwidth(b *testing.B) {
	const size, rate, long = 16 << 20, 20 << 20, 30 * time.Second
	m := testbed.StartMinIO(b)
	r := startRelay(b, m.Endpoint[len("http://"):])
	body := obstest.Body("pack", size)
	for _, jobs := range []int{1, 20} {
		for _, up := range []bool{true, false} {
			name := fmt.Sprintf("up/%d", jobs)
			if !up {
				name = fmt.Sprintf("down/%d", jobs)
			}
			b.Run(name, func(b *testing.B) {
				url := m.URLVia("http://"+r.address, m.Bucket(b), "")
				limiter := obs.NewLimiter(obs.Limits{})
				stores := make([]obs.Store, jobs) // as several vaults of a host have
				for i := range stores {
					var err error
					if stores[i], err = obs.Open(b.Context(), url, obs.Options{Getenv: m.Getenv, Limiter: limiter}); err != nil {
						b.Fatal(err)
					}
					defer func() { _ = stores[i].Close() }()
				}
				if err := stores[0].Put(b.Context(), "pack", body); err != nil {
					b.Fatal(err)
				}
				limiter.Set(obs.Limits{Up: rate, Down: rate})
				for b.Loop() {
					sent, received := r.begin()
					moved := sent
					if !up {
						moved = received
					}
					ctx, cancel := context.WithTimeout(b.Context(), long)
					var wg sync.WaitGroup
					for i, s := range stores {
						wg.Go(func() {
							p := make([]byte, size)
							for n := 0; ctx.Err() == nil; n++ {
								if !up {
									if _, err := s.ReadAt(ctx, "pack", p, 0); err != nil && ctx.Err() == nil {
										b.Error(err)
										return
									}
									continue
								}
								key := fmt.Sprintf("k/%d/%d", i, n)
								if err := s.Put(ctx, key, body); err != nil && ctx.Err() == nil {
									b.Error(err)
									return
								}
								_ = s.Delete(ctx, key) // not to fill the disk
							}
						})
					}
					wg.Wait()
					cancel()
					least, most := moved.windows(long, rate)
					b.ReportMetric(least, "least-%")
					b.ReportMetric(most, "most-%")
				}
			})
		}
	}
}

// windows tells how far from rate bytes a second the 10 s with the
// fewest and with the most bytes are, in per cent.
func (m *meter) windows(long time.Duration, rate int64) (least, most float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	least, most = 1e9, -1e9
	for i := 0; i+100 <= min(int(long/(100*time.Millisecond)), len(m.slots)); i++ {
		var sum int64
		for _, n := range m.slots[i : i+100] {
			sum += n
		}
		off := 100 * (float64(sum)/float64(10*rate) - 1)
		least, most = min(least, off), max(most, off)
	}
	return least, most
}

// relay passes connections on to a server and counts their bytes as they come.
type relay struct {
	address string

	mu             sync.Mutex
	sent, received *meter
}

// startRelay starts a relay to the server at an address; it goes with the test.
func startRelay(b *testing.B, server string) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := &relay{address: l.Addr().String()}
	r.begin()
	var wg sync.WaitGroup
	pass := func(from, to net.Conn, m func() *meter) {
		defer wg.Done()
		_, _ = io.Copy(&counted{to, m}, from)
		_ = to.Close()
		_ = from.Close()
	}
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			// the server counts these bytes as sent: keep them on their way, not in a buffer here
			_ = client.(*net.TCPConn).SetWriteBuffer(32 << 10)
			conn, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			wg.Add(2)
			go pass(client, conn, func() *meter { return r.meter(true) })
			go pass(conn, client, func() *meter { return r.meter(false) })
		}
	})
	b.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return r
}

// begin counts anew.
func (r *relay) begin() (sent, received *meter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent, r.received = &meter{start: time.Now()}, &meter{start: time.Now()}
	return r.sent, r.received
}

func (r *relay) meter(sent bool) *meter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sent {
		return r.sent
	}
	return r.received
}

// counted is a writer that counts the bytes written through it.
type counted struct {
	w io.Writer
	m func() *meter
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.m().add(n)
	return n, err
}
