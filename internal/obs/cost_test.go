package obs_test

import (
	"crypto/md5" //nolint:gosec // measured
	"crypto/sha256"
	"hash/crc32"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/obs/obstest"
)

// BenchmarkDigest measures the client's cost of each check that a server can make, for
// one pack of 16 MiB.
func BenchmarkDigest(b *testing.B) {
	body := obstest.Body("pack", 16<<20)
	table := crc32.MakeTable(crc32.Castagnoli)
	for name, digest := range map[string]func(){
		"md5":       func() { md5.Sum(body) }, //nolint:gosec // measured
		"sha256":    func() { sha256.Sum256(body) },
		"crc32c":    func() { crc32.Checksum(body, table) },
		"crc64nvme": func() { minio.ChecksumCRC64NVME.EncodeToString(body) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			start := processorTime(b)
			for b.Loop() {
				digest()
			}
			// Unlike the rate, this figure does not depend on other processes on the machine.
			b.ReportMetric(float64(processorTime(b)-start)/float64(b.N)/float64(len(body)), "cpu-ns/B")
		})
	}
}

// processorTime is the processor time that this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
