package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// view is the store as one process of the model sees it: its requests may be the last before
// it dies, and the answer to a put may be lost, with the put done at once, later or never.
type view struct {
	g       *game
	sound   bool // has no faults
	dead    bool
	session []string // ids of all that the process put
	busy    bool     // in the middle of a step
	gone    bool     // its writer or collector has left the game

	mu     sync.Mutex
	dieIn  int // requests until the process dies; below 0: it does not
	loseIn int // puts until an answer is lost
	how    int // 0 never done, 1 done at once, 2 done later
	late   []latePut
	// refuses makes the store refuse every put after the one whose
	// answer was lost, until the step ends: only a look is left.
	refuses bool
	refused bool
	ledger  *ledger // of the process, over all its steps
}

type latePut struct {
	key  string
	body []byte
}

var errDied = errors.New("the process died")

// plain takes the faults away.
func (p *view) plain() { p.dieIn, p.loseIn, p.refuses, p.refused = -1, -1, false, false }

// plan draws the faults of the next step.
func (p *view) plan() {
	p.plain()
	if p.sound {
		return
	}
	switch p.g.draw(12, "fault") {
	case 10:
		p.dieIn = p.g.draw(6, "dies")
	case 11:
		p.loseIn, p.how, p.refuses = p.g.draw(2, "loses"), p.g.draw(3, "how"), p.g.draw(3, "refuses") > 0
	}
	// the case of this rule comes by chance too seldom
	if p.g.rules.writerForgetsDoubt && p.g.draw(3, "doubt") == 0 {
		p.dieIn, p.loseIn, p.how, p.refuses = -1, 0, 2, true
	}
}

// deliver does the requests that were on their way.
func (p *view) deliver() {
	if len(p.late) > 0 {
		l := p.late[0]
		p.late = p.late[1:]
		p.g.fail(p.g.st.Put(p.g.ctx, l.key, l.body))
	}
}

// vault returns the vault over this view.
func (p *view) vault() *Vault {
	if p.ledger == nil {
		p.ledger = newLedger()
	}
	v := *p.g.v
	v.st, v.ledger = (*viewStore)(p), p.ledger
	return &v
}

// ended makes the sessions of the process sessions of a dead process.
func (p *view) ended() {
	p.late = nil
	for _, id := range p.session {
		running.Delete(id)
	}
}

// spend counts a request.
func (p *view) spend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || p.dieIn == 0 {
		p.dead = true
		return errDied
	}
	p.dieIn--
	return nil
}

// viewStore is the Store of a view.
type viewStore view

func (s *viewStore) base() *view { return (*view)(s) }

// between lets others work before a request that its process makes alone.
func (s *viewStore) between(key string) {
	for _, folder := range []string{"/sessions/", "/condemned/", "/backups/", "/forgotten/", "/going/", "/moved/"} {
		if folder == "/moved/" && s.g.rules != (rules{}) {
			continue // games of broken rules move no chunks
		}
		if strings.Contains(key, folder) && !s.sound && !s.dead {
			s.g.interleave()
		}
	}
}

func (s *viewStore) Put(ctx context.Context, key string, body []byte) error {
	s.between(key)
	p := s.base()
	if err := p.spend(); err != nil {
		return err
	}
	p.mu.Lock()
	if _, id, ok := strings.Cut(key, "/sessions/"); ok {
		p.session = append(p.session, id)
	}
	lose, refused := p.loseIn == 0, p.refused
	p.loseIn--
	p.refused = p.refused || lose && p.refuses
	p.mu.Unlock()
	switch {
	case refused:
		return fmt.Errorf("put %s: %w", key, obs.ErrAccess)
	case !lose:
		return s.g.st.Put(ctx, key, body)
	}
	s.g.sum.Lost++
	switch p.how {
	case 1:
		s.g.fail(s.g.st.Put(ctx, key, body))
	case 2:
		p.late = append(p.late, latePut{key, slices.Clone(body)})
	}
	return fmt.Errorf("put %s: %w (%w)", key, obs.ErrUnavailable, obs.ErrUncertain)
}

func (s *viewStore) PutNew(ctx context.Context, key string, body []byte) error {
	return s.g.st.PutNew(ctx, key, body)
}

func (s *viewStore) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	if err := s.base().spend(); err != nil {
		return 0, err
	}
	return s.g.st.ReadAt(ctx, key, b, off)
}

func (s *viewStore) Stat(ctx context.Context, key string) (obs.Info, error) {
	s.between(key)
	if err := s.base().spend(); err != nil {
		return obs.Info{}, err
	}
	return s.g.st.Stat(ctx, key)
}

func (s *viewStore) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	s.between(prefix)
	if err := s.base().spend(); err != nil {
		return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, err) }
	}
	return s.g.st.List(ctx, prefix)
}

func (s *viewStore) Delete(ctx context.Context, keys ...string) error {
	if len(keys) > 0 {
		s.between(keys[0])
	}
	if err := s.base().spend(); err != nil {
		return err
	}
	return s.g.st.Delete(ctx, keys...)
}

func (s *viewStore) Extend(ctx context.Context, key string, until time.Time) error {
	s.between(key)
	if err := s.base().spend(); err != nil {
		return err
	}
	return s.g.st.Extend(ctx, key, until)
}

func (s *viewStore) Capabilities() obs.Capabilities { return s.g.st.Capabilities() }
func (s *viewStore) String() string                 { return s.g.st.String() }
func (s *viewStore) Close() error                   { return nil }
