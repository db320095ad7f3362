package backup_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// slow is a store that takes a while for each pack.
type slow struct {
	obs.Store
	delay time.Duration
}

func (s slow) Put(ctx context.Context, key string, body []byte) error {
	if strings.Contains(key, "/packs/") {
		time.Sleep(s.delay)
	}
	return s.Store.Put(ctx, key, body)
}

// TestLevelFollowsTheStore: the same content takes less room in a store that
// is slow, for the cores have time to compress it well, and bounds hold
// either way. How slow a store has to be depends on how busy this machine is.
func TestLevelFollowsTheStore(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	var words [3000]string
	for i := range words {
		words[i] = fmt.Sprintf("%x", r.Uint64()>>r.IntN(50))
	}
	// so many packs that those which are under way before the level follows do not count
	for i := range 100 {
		var b strings.Builder
		for b.Len() < 1<<20 {
			b.WriteString(words[int(r.ExpFloat64()*300)%len(words)])
			b.WriteByte(" \n,."[r.IntN(4)])
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(delay time.Duration, least, most seal.Level) *backup.Result {
		t.Helper()
		id, err := vault.GenerateIdentity()
		if err != nil {
			t.Fatal(err)
		}
		p := vault.DefaultParams()
		p.Pack = 4 * p.Chunk.Max
		v, err := vault.CreateWith(t.Context(), slow{obs.NewMemory(), delay}, "tenant", nil, nil, id, p)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Budget: 1, MinLevel: least, MaxLevel: most,
		})
		if err != nil {
			t.Fatal(err)
		}
		var sum uint64
		for _, n := range res.Compressed {
			sum += n
		}
		if sum < res.BytesNew {
			t.Errorf("compressed %v, of %d bytes that were new", res.Compressed, res.BytesNew)
		}
		return res
	}
	fast := run(0, seal.Fastest, seal.Fastest)
	if n := fast.Compressed["fastest"]; n == 0 || len(fast.Compressed) != 1 {
		t.Errorf("one level allowed, and compressed %v", fast.Compressed)
	}
	light := run(0, seal.S2, seal.S2)
	if n := light.Compressed["s2"]; n == 0 || len(light.Compressed) != 1 || !strings.Contains(light.CompressedWhy, "level s2 alone is allowed") {
		t.Errorf("S2 alone allowed, and compressed %v: %s", light.Compressed, light.CompressedWhy)
	}
	if light.BytesSent <= fast.BytesSent {
		t.Errorf("S2 sent %d bytes, and zstd %d", light.BytesSent, fast.BytesSent)
	}
	for delay := 80 * time.Millisecond; ; delay *= 4 {
		res := run(delay, 0, 0)
		t.Logf("%v for a pack: %d bytes sent after %d, compressed %v", delay, res.BytesSent, fast.BytesSent, res.Compressed)
		if res.Compressed["better"] > 0 {
			t.Error("it went beyond its bound")
		}
		if res.Compressed["default"] > res.BytesNew/2 && res.BytesSent < fast.BytesSent*98/100 {
			return
		}
		if delay > 2*time.Second {
			t.Fatal("the store is slow, and no less is sent")
		}
	}
}
