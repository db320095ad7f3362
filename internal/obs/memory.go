package obs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// memory is a Store in memory, for tests.
type memory struct {
	mu      sync.Mutex
	objects map[string]memoryObject
	closed  bool

	retain    time.Duration // 0 without lock
	retention func(key string, asked time.Duration) time.Duration
}

type memoryObject struct {
	body     []byte
	modified time.Time
	until    time.Time // of the lock; zero without
}

func (o memoryObject) info(key string) Info {
	return Info{Key: key, Size: int64(len(o.body)), Modified: o.modified, RetainUntil: o.until}
}

// NewMemory makes an empty store in memory. It is whole in every promise but durability.
func NewMemory() Store { return &memory{objects: make(map[string]memoryObject)} }

// NewLockedMemory is NewMemory with an object lock, as a URL with retain= asks for:
// objects for which retention is not 0 (nil: all) can't be deleted before their time.
func NewLockedMemory(retain time.Duration, retention func(key string, asked time.Duration) time.Duration) Store {
	return &memory{objects: make(map[string]memoryObject), retain: retain, retention: retention}
}

func (m *memory) begin(ctx context.Context, op, key string) error {
	if err := enter(ctx, op, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return noEffect(fmt.Errorf("%s %s: store is closed: %w", op, key, os.ErrClosed))
	}
	return nil
}

func (m *memory) Put(ctx context.Context, key string, body []byte) error {
	return m.put(ctx, opPut, key, body, false)
}

func (m *memory) PutNew(ctx context.Context, key string, body []byte) error {
	return m.put(ctx, opPutNew, key, body, true)
}

func (m *memory) put(ctx context.Context, op, key string, body []byte, fresh bool) error {
	if err := m.begin(ctx, op, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.objects[key]; ok {
		if fresh || !bytes.Equal(old.body, body) {
			return fmt.Errorf("%s %s: %w", op, key, ErrExists)
		}
		return nil
	}
	o := memoryObject{body: bytes.Clone(body), modified: time.Now().UTC()}
	if retain := m.retains(key); retain > 0 {
		o.until = o.modified.Add(retain)
	}
	m.objects[key] = o
	return nil
}

func (m *memory) retains(key string) time.Duration {
	if m.retain == 0 || m.retention == nil {
		return m.retain
	}
	return m.retention(key, m.retain)
}

func (m *memory) Extend(ctx context.Context, key string, until time.Time) error {
	if err := m.begin(ctx, opExtend, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	switch {
	case m.retain == 0:
		return fmt.Errorf("%s %s: %w", opExtend, key, errNoLock)
	case !ok:
		return fmt.Errorf("%s %s: %w", opExtend, key, ErrNotFound)
	case o.until.Before(until):
		o.until = until.UTC()
		m.objects[key] = o
	}
	return nil
}

func (m *memory) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := m.begin(ctx, opRead, key); err != nil {
		return 0, err
	}
	if err := offsetValid(key, off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	o, ok := m.objects[key]
	m.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("%s %s: %w", opRead, key, ErrNotFound)
	}
	n := 0
	if off < int64(len(o.body)) {
		n = copy(p, o.body[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) Stat(ctx context.Context, key string) (Info, error) {
	if err := m.begin(ctx, opStat, key); err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return Info{}, fmt.Errorf("%s %s: %w", opStat, key, ErrNotFound)
	}
	return o.info(key), nil
}

func (m *memory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return m.listAfter(ctx, prefix, "")
}

func (m *memory) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := enterList(ctx, prefix); err != nil {
			yield(Info{}, err)
			return
		}
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			yield(Info{}, fmt.Errorf("%s %s: store is closed: %w", opList, prefix, os.ErrClosed))
			return
		}
		var all []Info
		for _, key := range slices.Sorted(maps.Keys(m.objects)) {
			if strings.HasPrefix(key, prefix) && key > after {
				all = append(all, m.objects[key].info(key))
			}
		}
		m.mu.Unlock()
		for _, in := range all {
			if err := ended(ctx, opList, prefix); err != nil {
				yield(Info{}, err)
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

func (m *memory) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := m.begin(ctx, opDelete, key); err != nil {
			return err
		}
		if err := m.delete(key); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) delete(key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if until := m.objects[key].until; time.Now().Before(until) {
		return fmt.Errorf("%s %s: %w: the object is locked until %v", opDelete, key, ErrAccess, until)
	}
	delete(m.objects, key)
	return nil
}

func (m *memory) Capabilities() Capabilities {
	return Capabilities{ConditionalPut: true, Integrity: "memory", Retain: m.retain}
}

func (m *memory) String() string { return "memory:" }

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
