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
}

type memoryObject struct {
	body     []byte
	modified time.Time
}

// NewMemory makes an empty store in memory. It is whole in every promise but durability.
func NewMemory() Store { return &memory{objects: make(map[string]memoryObject)} }

func (m *memory) begin(ctx context.Context, op, key string) error {
	if err := enter(ctx, op, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("%s %s: store is closed: %w", op, key, os.ErrClosed)
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
	m.objects[key] = memoryObject{bytes.Clone(body), time.Now().UTC()}
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
	return Info{key, int64(len(o.body)), o.modified}, nil
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
				all = append(all, Info{key, int64(len(m.objects[key].body)), m.objects[key].modified})
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
		m.mu.Lock()
		delete(m.objects, key)
		m.mu.Unlock()
	}
	return nil
}

func (m *memory) Capabilities() Capabilities {
	return Capabilities{ConditionalPut: true, Integrity: "memory"}
}

func (m *memory) String() string { return "memory:" }

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
