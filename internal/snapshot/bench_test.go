package snapshot_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
)

// benchView makes and removes views, and compares each with the first.
func benchView(b *testing.B, name, volume string, touch func(round int)) {
	p, err := snapshot.ByName(name)
	if err != nil {
		b.Fatal(err)
	}
	request := func(job string) snapshot.Request {
		return snapshot.Request{Volume: volume, Host: "h", Job: job, Name: "v"}
	}
	base, err := p.Create(b.Context(), request("base"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Remove(context.Background(), base.Ref)
	touch(0)
	now, err := p.Create(b.Context(), request("now"))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Remove(context.Background(), now.Ref)
	b.Run("create and remove", func(b *testing.B) {
		for i := range b.N {
			snap, err := p.Create(b.Context(), request(fmt.Sprint(i)))
			if err == nil {
				err = p.Remove(b.Context(), snap.Ref)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("changed", func(b *testing.B) {
		for range b.N {
			c, err := p.Changed(b.Context(), base.Base(), now)
			if err != nil {
				b.Fatal(err)
			}
			ranges, _ := c.Image()
			b.ReportMetric(float64(c.Inodes()), "inodes")
			b.ReportMetric(float64(len(ranges)), "ranges")
			c.Close()
		}
	})
}

// BenchmarkTree is 20,000 files of 4 KiB, of which 200 were written to.
func BenchmarkTree(b *testing.B) {
	vol := filepath.Join(testbed.Btrfs(b), "vol")
	run := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	run(snapshot.MakeFolder(vol))
	path := func(i int) string { return filepath.Join(vol, fmt.Sprint(i%100), fmt.Sprint(i)) }
	for i := range 20000 {
		run(os.MkdirAll(filepath.Dir(path(i)), 0o755))
		run(os.WriteFile(path(i), make([]byte, 4096), 0o600))
	}
	benchView(b, "btrfs", vol, func(int) {
		for i := range 200 {
			run(os.WriteFile(path(i*97), []byte("changed"), 0o600))
		}
	})
}

// BenchmarkImage is an image of 512 MiB in 10,000 extents, of which 200 were written to.
func BenchmarkImage(b *testing.B) {
	for kind, make := range map[string]func(testing.TB) string{"btrfs": testbed.Btrfs, "xfs": testbed.Xfs} {
		b.Run(kind, func(b *testing.B) {
			path := filepath.Join(make(b), "disk")
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			rnd := rand.New(rand.NewPCG(1, 1))
			write := func(at int64) {
				if _, err := f.WriteAt([]byte(fmt.Sprint(rnd.Uint64())), at); err != nil {
					b.Fatal(err)
				}
			}
			for i := range int64(10000) {
				write(i * 52 << 10)
			}
			benchView(b, "reflink", path, func(int) {
				for range 200 {
					write(rnd.Int64N(10000) * 52 << 10)
				}
			})
		})
	}
}
