package obs_test

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
	"holdfast/internal/testbed"
)

// BenchmarkPacks puts packs to MinIO from eight jobs at once, in turns with the same
// puts by the client library alone as it comes. It prints the ratio of the rates and the
// processor time that this process needs for a GiB. The server shares the processors.
func BenchmarkPacks(b *testing.B) {
	const size, jobs, each = 16 << 20, 8, 3
	m := testbed.StartMinIO(b)
	body := obstest.Body("pack", size)
	raw, err := minio.New(m.Endpoint[len("http://"):], &minio.Options{
		Creds: credentials.NewStaticV4(m.AccessKey, m.SecretKey, ""), Region: "us-east-1", Transport: &http.Transport{MaxIdleConnsPerHost: jobs},
	})
	if err != nil {
		b.Fatal(err)
	}
	bucket := m.Bucket(b)
	var names atomic.Int64
	turn := func(put func(key string) error) (seconds, cpu float64) {
		start, used := time.Now(), processorTime(b)
		var wg sync.WaitGroup
		for range jobs {
			wg.Go(func() {
				for range each {
					if err := put(fmt.Sprintf("packs/%d", names.Add(1))); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		seconds, cpu = time.Since(start).Seconds(), (processorTime(b) - used).Seconds()
		// not to fill the disk
		for o := range raw.ListObjectsIter(b.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
			_ = raw.RemoveObject(b.Context(), bucket, o.Key, minio.RemoveObjectOptions{})
		}
		return seconds, cpu
	}
	kinds := []struct {
		name string
		put  func(key string) error
	}{{"client", func(key string) error {
		_, err := raw.PutObject(b.Context(), bucket, key, bytes.NewReader(body), size, minio.PutObjectOptions{DisableMultipart: true})
		return err
	}}}
	for _, integrity := range []string{"auto", "sha256", "md5"} {
		s, err := obs.Open(b.Context(), m.URL(bucket, "")+"&integrity="+integrity, obs.Options{Getenv: m.Getenv, Limiter: obs.NewLimiter(obs.Limits{})})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		kinds = append(kinds, struct {
			name string
			put  func(key string) error
		}{integrity, func(key string) error { return s.Put(b.Context(), key, body) }})
	}
	var seconds, cpu [4]float64
	b.SetBytes(int64(len(kinds)) * jobs * each * size)
	for b.Loop() {
		for i, k := range kinds {
			s, c := turn(k.put)
			seconds[i], cpu[i] = seconds[i]+s, cpu[i]+c
		}
	}
	gib := float64(b.N) * jobs * each * size / (1 << 30)
	for i, k := range kinds {
		b.ReportMetric(cpu[i]/gib, k.name+"-cpu-s/GiB")
		if i > 0 {
			b.ReportMetric(seconds[0]/seconds[i], k.name+"-of-client")
		}
	}
}
