package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// manyStore is a store with a large vault of which nothing is in memory: manifests
// and lists are made when they are asked for. Each instance has 300 packs and 10
// backups, which name 285 of them, 123 each. Everything else is in the store below.
type manyStore struct {
	obs.Store
	v         *Vault
	instances int
	latency   time.Duration
	gone      []atomic.Uint64 // bits: deleted packs
	lists, heads, gets, puts,
	deletes atomic.Int64
}

const (
	manyPacks   = 300 // of an instance
	manyBackups = 10  // of an instance
	manyNamed   = 123 // packs of a backup
	manyStep    = 18  // between the first packs of two backups
)

// id is pack number n; the folders have equally many.
func (s *manyStore) id(n int) (id PackID) {
	id[0] = byte(n % prefixes)
	binary.BigEndian.PutUint32(id[1:], uint32(n/prefixes))
	binary.BigEndian.PutUint64(id[5:], uint64(n)*0x9e3779b97f4a7c15)
	return id
}

func (s *manyStore) packs() int { return s.instances * manyPacks }

func (s *manyStore) ask(n *atomic.Int64) {
	n.Add(1)
	time.Sleep(s.latency)
}

func (s *manyStore) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	s.ask(&s.lists)
	var list func(yield func(obs.Info, error) bool)
	size := int64(16 << 20)
	switch rest := strings.TrimPrefix(prefix, s.v.info.ID+"/"); {
	case strings.HasPrefix(rest, "packs/"):
		list = func(yield func(obs.Info, error) bool) {
			for folder := range prefixes {
				if name := packFolder(folder); !strings.HasPrefix("packs/"+name, rest) {
					continue
				}
				for n := folder; n < s.packs(); n += prefixes {
					if s.gone[n/64].Load()&(1<<(n%64)) == 0 && !yield(obs.Info{Key: s.v.packKey(s.id(n)), Size: size}, nil) {
						return
					}
				}
			}
		}
	case strings.HasPrefix(rest, "backups/"):
		list = func(yield func(obs.Info, error) bool) {
			for i := range s.instances {
				for b := range manyBackups {
					if !yield(obs.Info{Key: s.v.manifestKey(fmt.Sprintf("cp-%06d", i), modelID(b+1)), Size: 3000}, nil) {
						return
					}
				}
			}
		}
	default:
		return s.Store.List(ctx, prefix)
	}
	return func(yield func(obs.Info, error) bool) {
		n := 0
		list(func(info obs.Info, err error) bool {
			if n++; n%listPage == 0 {
				s.ask(&s.lists)
			}
			return yield(info, err)
		})
	}
}

// manifest makes the object of a manifest; nil where key is of none.
func (s *manyStore) manifest(key string) []byte {
	name, is := strings.CutPrefix(key, s.v.backupsPrefix())
	if !is {
		return nil
	}
	ref, _ := refOfName(name)
	i, _ := strconv.Atoi(strings.TrimPrefix(ref.Instance, "cp-"))
	m := &Manifest{Format: Format, Instance: ref.Instance, ID: ref.ID, Seq: ref.Seq, Parent: modelParent(int(ref.Seq))}
	for n := range manyNamed {
		m.Packs = append(m.Packs, PackRef{ID: s.id(i*manyPacks + int(ref.Seq-1)*manyStep + n), Size: 16 << 20})
	}
	plain, err := encMode.Marshal(m)
	if err != nil {
		panic(err)
	}
	object := []byte(manifestMagic)
	return seal.NewAEAD(s.v.manifestSubkey(ref.Instance, ref.ID)).Seal(object, format.Nonce(0), plain, object)
}

func (s *manyStore) Stat(ctx context.Context, key string) (obs.Info, error) {
	s.ask(&s.heads)
	if body := s.manifest(key); body != nil {
		return obs.Info{Key: key, Size: int64(len(body))}, nil
	}
	return s.Store.Stat(ctx, key)
}

func (s *manyStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.ask(&s.gets)
	if body := s.manifest(key); body != nil {
		return bytes.NewReader(body).ReadAt(p, off)
	}
	return s.Store.ReadAt(ctx, key, p, off)
}

func (s *manyStore) Put(ctx context.Context, key string, body []byte) error {
	s.ask(&s.puts)
	return s.Store.Put(ctx, key, body)
}

func (s *manyStore) Delete(ctx context.Context, keys ...string) error {
	s.ask(&s.deletes)
	if len(keys) == 0 || !strings.Contains(keys[0], "/packs/") {
		return s.Store.Delete(ctx, keys...)
	}
	for _, key := range keys {
		id, err := ParsePackID(key[strings.LastIndexByte(key, '/')+1:])
		if err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(id[1:]))*prefixes + int(id[0])
		s.gone[n/64].Or(1 << (n % 64))
	}
	return nil
}

// BenchmarkPruneOfManyBackups prunes a vault with 100,000 backups and 3
// million packs, and then once more: HOLDFAST_MANY_INSTANCES are the instances
// (10,000), of 10 backups and 300 packs each, and HOLDFAST_MANY_LATENCY is how
// long a request takes (20ms). It takes some minutes: run it alone, with
// -benchtime 1x.
func BenchmarkPruneOfManyBackups(b *testing.B) {
	instances, latency := 10_000, 20*time.Millisecond
	if text := os.Getenv("HOLDFAST_MANY_INSTANCES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		instances = n
	}
	if text := os.Getenv("HOLDFAST_MANY_LATENCY"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			b.Fatal(err)
		}
		latency = d
	}
	for range b.N {
		v := fuzzVault(b)
		st := &manyStore{Store: v.st, v: v, instances: instances, gone: make([]atomic.Uint64, (instances*manyPacks+63)/64)}
		many := v.in(st)
		st.v, st.latency = many, latency
		o := pruneNow()
		o.IndexDir = b.TempDir()
		for _, which := range []string{"first", "again"} {
			for _, n := range []*atomic.Int64{&st.lists, &st.heads, &st.gets, &st.puts, &st.deletes} {
				n.Store(0)
			}
			before := peak(b)
			begun := time.Now()
			r, err := many.Prune(b.Context(), o)
			if err != nil {
				b.Fatal(err)
			}
			b.Logf("%s: %.0f s, %d lists, %d heads, %d gets, %d puts, %d deletes; %d MiB at most, %d before; %d of %d backups known, %d packs deleted", which,
				time.Since(begun).Seconds(), st.lists.Load(), st.heads.Load(), st.gets.Load(), st.puts.Load(), st.deletes.Load(),
				peak(b)>>20, before>>20, r.Cached, r.Backups, r.Deleted)
		}
	}
}

// peak is the most memory of this process since the last call, bytes.
func peak(b *testing.B) (bytes int64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, is := strings.CutPrefix(line, "VmHWM:"); is {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			bytes = n << 10
		}
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
	return bytes
}
