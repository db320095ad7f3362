package tree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/tree"
)

// BenchmarkWalk walks trees of 15,000 files that are in the cache.
func BenchmarkWalk(b *testing.B) {
	const files = 15_000
	for _, c := range []struct {
		name   string
		folder int // files in each
		label  bool
	}{{"folders=100", 100, false}, {"folders=100,labelled", 100, true}, {"folders=10", 10, false}, {"one-folder", files, false}} {
		b.Run(c.name, func(b *testing.B) {
			dir := makeFiles(b, files, c.folder, c.label)
			r := openRoot(b, dir)
			b.ReportAllocs()
			entries := 0
			cpu := cpuTime(b)
			for b.Loop() {
				entries = 0
				if err := r.Walk(b.Context(), tree.WalkOptions{}, func(*tree.Entry) error { entries++; return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N)/float64(entries), "cpu-ns/entry")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(entries), "ns/entry")
		})
	}
}

// BenchmarkOpen opens files of a tree one after the other.
func BenchmarkOpen(b *testing.B) {
	dir := makeFiles(b, 2000, 100, false)
	entries, _ := walk(b, dir)
	r := openRoot(b, dir)
	i := 0
	cpu := cpuTime(b)
	for b.Loop() {
		for entries[i%len(entries)].Kind != tree.File {
			i++
		}
		f, err := r.Open(entries[i%len(entries)], nil)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		i++
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
}

// BenchmarkReadFlags is the added cost of flags and project ids for a file that is open anyhow.
func BenchmarkReadFlags(b *testing.B) {
	dir := makeFiles(b, 1, 100, false)
	entries, _ := walk(b, dir)
	r, e := openRoot(b, dir), entries[len(entries)-1]
	if !r.HasFlags() {
		b.Skip("the file system keeps no flags")
	}
	f, err := r.Open(e, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		if err := r.ReadFlags(e, f); err != nil {
			b.Fatal(err)
		}
	}
}

// cpuTime is the time that the process has used on any core, in nanoseconds:
// unlike the time on the wall it says something on a machine that has other work.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkTarget makes empty files with metadata.
func BenchmarkTarget(b *testing.B) {
	dst := b.TempDir()
	t, err := tree.NewTarget(dst, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer t.Close()
	i := 0
	cpu := cpuTime(b)
	for b.Loop() {
		e := &tree.Entry{
			Path: fmt.Sprintf("f%09d", i), Kind: tree.File, Mode: 0o644, Size: 100,
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mtime: tree.Time{Sec: 1},
		}
		f, err := t.Create(e)
		if err == nil {
			err = t.FinishFile(e, f)
		}
		if err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
}

// makeFiles makes n files, in folders of that many, as deep as an app's data lie.
func makeFiles(b *testing.B, n, folder int, label bool) string {
	b.Helper()
	dir := b.TempDir()
	for i := range n {
		d := filepath.Join(dir, "data", fmt.Sprintf("app%04d", i/folder), "cache", "files")
		if i%folder == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		p := filepath.Join(d, fmt.Sprintf("%08x.bin", i*2654435761))
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			b.Fatal(err)
		}
		if label {
			if err := unix.Setxattr(p, "user.label", []byte("u:object_r:app_data_file:s0:c512,c768"), 0); err != nil {
				b.Skip(err)
			}
		}
	}
	return dir
}
