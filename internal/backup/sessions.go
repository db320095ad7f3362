package backup

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/internal/vault"
)

// sessions lets the Runs of one host share their sessions in a vault: each session
// costs four requests, and a hundred small backups would send more requests for
// sessions than for content. To a collector the Runs of one session are one writer
// that makes several backups: it waits until the last of them has ended, and the
// condemnations from before the session hold for all (FORMAT.md, Session).
type sessions struct {
	mu   sync.Mutex
	open map[sessionKey]*session // that one may join
	tidy map[*vault.Vault]bool   // whose index somebody is at to tidy
}

type sessionKey struct {
	vault *vault.Vault
	host  string
}

// session is a shared session.
type session struct {
	*vault.Session // once ready is closed, unless there is an error
	key            sessionKey
	began          time.Time // before it was stored
	ready          chan struct{}
	err            error
	givenUp        bool // by who began it, and not for a reason that holds for others
	users          int
	looks          *vault.PackLooks // of all who share it
}

// joinFor is how long a session may be joined after it began: else one after the
// other would keep it for ever, and a collector that waits for its end with it.
const joinFor = 10 * time.Second

func newSessions() *sessions {
	return &sessions{open: map[sessionKey]*session{}, tidy: map[*vault.Vault]bool{}}
}

// begin joins a session or, where there is none, begins one. leave is due for it.
func (s *sessions) begin(ctx context.Context, v *vault.Vault, o vault.SessionOptions) (*session, error) {
	key := sessionKey{v, o.Host}
	for {
		s.mu.Lock()
		shared := s.open[key]
		if shared == nil || time.Since(shared.began) > joinFor {
			break // with the lock
		}
		shared.users++
		s.mu.Unlock()
		select {
		case <-shared.ready:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), s.leave(ctx, shared))
		}
		if shared.err == nil {
			return shared, nil
		}
		if !shared.givenUp {
			return nil, shared.err
		}
	}
	shared := &session{key: key, began: time.Now(), ready: make(chan struct{}), users: 1, looks: v.NewPackLooks()}
	s.open[key] = shared
	s.mu.Unlock()
	shared.Session, shared.err = v.BeginSession(ctx, o)
	shared.givenUp = ctx.Err() != nil
	if shared.err != nil {
		s.retire(shared)
	}
	close(shared.ready)
	return shared, shared.err
}

// retire lets nobody join any more.
func (s *sessions) retire(shared *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[shared.key] == shared {
		delete(s.open, shared.key)
	}
}

// leave ends the session when nobody uses it any more.
func (s *sessions) leave(ctx context.Context, shared *session) error {
	s.mu.Lock()
	shared.users--
	last := shared.users == 0
	if last && s.open[shared.key] == shared {
		delete(s.open, shared.key)
	}
	s.mu.Unlock()
	if !last || shared.err != nil {
		return nil
	}
	return shared.End(ctx)
}

// tidying tells whether the caller may tidy the vault's index,
// since no other Run does; end is due then.
func (s *sessions) tidying(v *vault.Vault) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tidy[v] {
		return nil, false
	}
	s.tidy[v] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tidy, v)
	}, true
}
