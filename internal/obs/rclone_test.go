package obs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// BenchmarkRclone puts a folder of packs to MinIO by eight jobs, in turns with "rclone copy" of
// the same folder with eight transfers, once as it comes and once with all checks switched off
// that it can switch off. It prints the medians of the ratios of the rates, and the processor
// time that each client needs for a GiB. The benchmark subtracts the time in which rclone
// starts and ends, which copying an empty folder shows. The server shares the processors.
func BenchmarkRclone(b *testing.B) {
	const size, jobs, packs = 16 << 20, 8, 32
	program, err := testbed.GoProgram("rclone")
	if err != nil {
		b.Skipf("%v, with \"packaging/ci/setup.sh long\"", err)
	}
	m := testbed.StartMinIO(b)
	folder, empty, bucket := testbed.Dir(b), testbed.Dir(b), m.Bucket(b)
	for i := range packs {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), obstest.Body(fmt.Sprint("pack", i), size), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	s, err := obs.Open(b.Context(), m.URL(bucket, ""), obs.Options{Getenv: m.Getenv, Limiter: obs.NewLimiter(obs.Limits{})})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()

	copies := 0
	rclone := func(from string, args ...string) cost {
		copies++
		c := exec.Command(program, append([]string{"copy", "--transfers", fmt.Sprint(jobs), from, fmt.Sprintf("m:%s/%d", bucket, copies)}, args...)...)
		c.Env = append(os.Environ(), "RCLONE_CONFIG="+os.DevNull, "RCLONE_CONFIG_M_TYPE=s3", "RCLONE_CONFIG_M_PROVIDER=Minio",
			"RCLONE_CONFIG_M_ENDPOINT="+m.Endpoint, "RCLONE_CONFIG_M_REGION=us-east-1",
			"RCLONE_CONFIG_M_ACCESS_KEY_ID="+m.AccessKey, "RCLONE_CONFIG_M_SECRET_ACCESS_KEY="+m.SecretKey)
		start := time.Now()
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("rclone: %v\n%s", err, out)
		}
		took := time.Since(start).Seconds()
		usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
		return cost{took, (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds(), float64(usage.Maxrss) / 1024}
	}
	copied := func(args ...string) cost {
		start, whole := rclone(empty, args...), rclone(folder, args...)
		return cost{whole.seconds - start.seconds, whole.cpu - start.cpu, whole.memory}
	}
	buffers := make([][]byte, jobs)
	for i := range buffers {
		buffers[i] = make([]byte, size)
	}
	ours := func() cost {
		copies++
		peak := watchMemory()
		start, used := time.Now(), processorTime(b)
		var wg sync.WaitGroup
		for j := range jobs {
			wg.Go(func() {
				for i := j; i < packs; i += jobs {
					if err := putFile(b.Context(), s, filepath.Join(folder, fmt.Sprint(i)), fmt.Sprintf("%d/%d", copies, i), buffers[j]); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return cost{time.Since(start).Seconds(), (processorTime(b) - used).Seconds(), peak()}
	}
	clear := func() { // not to fill the disk
		var keys []string
		for in, err := range s.List(b.Context(), "") {
			if err != nil {
				b.Fatal(err)
			}
			keys = append(keys, in.Key)
		}
		if len(keys) != packs {
			b.Fatalf("%d objects, of %d packs", len(keys), packs)
		}
		if err := s.Delete(b.Context(), keys...); err != nil {
			b.Fatal(err)
		}
	}
	clients := []struct {
		name string
		run  func() cost
	}{
		{"holdfast", ours},
		{"rclone", func() cost { return copied() }},
		{"rclone-unchecked", func() cost {
			return copied("--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum", "--no-traverse", "--ignore-checksum", "--s3-use-unsigned-payload=true")
		}},
	}
	costs := make([][]cost, len(clients))
	b.SetBytes(int64(len(clients)) * packs * size)
	for round := 0; b.Loop(); round++ {
		for i := range clients {
			k := (i + round) % len(clients) // nobody is always the first
			costs[k] = append(costs[k], clients[k].run())
			clear()
		}
	}
	const gib = float64(packs*size) / (1 << 30)
	for i, c := range clients {
		b.ReportMetric(median(costs[i], func(_ int, c cost) float64 { return c.cpu / gib }), c.name+"-cpu-s/GiB")
		b.ReportMetric(median(costs[i], func(_ int, c cost) float64 { return gib / c.seconds }), c.name+"-GiB/s")
		b.ReportMetric(median(costs[i], func(_ int, c cost) float64 { return c.memory }), c.name+"-MiB")
		if i > 0 {
			b.ReportMetric(median(costs[i], func(n int, c cost) float64 { return c.seconds / costs[0][n].seconds }), "of-"+c.name)
		}
	}
}

// cost is the time, the processor time and the memory of one turn.
type cost struct {
	seconds, cpu float64
	memory       float64 // MiB, at most
}

func median(costs []cost, of func(i int, c cost) float64) float64 {
	values := make([]float64, len(costs))
	for i, c := range costs {
		values[i] = of(i, c)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// putFile reads a pack from a file, as rclone has to, and puts it.
func putFile(ctx context.Context, s obs.Store, path, key string, buffer []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(f, buffer)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.Put(ctx, key, buffer)
}

// watchMemory samples the memory that this process has from the system, until peak
// returns the highest sample, in MiB.
func watchMemory() (peak func() float64) {
	stop, result := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		var most uint64
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64()-sample[1].Value.Uint64())
			select {
			case <-stop:
				tick.Stop()
				result <- most
				return
			case <-tick.C:
			}
		}
	}()
	return func() float64 { close(stop); return float64(<-result) / (1 << 20) }
}
