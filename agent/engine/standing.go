package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrCopied says that the agent stands still, because its state folder is not known to be its own.
var ErrCopied = errors.New("this agent stands still, since its state folder may be a copy of another host's")

// Standing tells whether the agent stands still. The zero value is of an
// agent that works; Begin has to come before Halt. It is for any goroutine.
type Standing struct {
	mu     sync.Mutex
	why    error
	ctx    context.Context //nolint:containedctx // ends once why is set, for contexts that end with it
	still  context.CancelFunc
	halted func(error) // called once, with why
}

// Begin gives the function that is called once, with the reason,
// when the agent begins to stand still.
func (s *Standing) Begin(halted func(error)) {
	s.ctx, s.still = context.WithCancel(context.Background())
	s.halted = halted
}

// Halt makes the agent stand still, for the rest of its life. The first reason counts.
func (s *Standing) Halt(why error) {
	s.mu.Lock()
	first := s.why == nil
	if first {
		s.why = why
		s.still()
	}
	s.mu.Unlock()
	if first {
		s.halted(why)
	}
}

// Reason is why the agent stands still; nil while it works.
func (s *Standing) Reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// Allowed is nil while the agent works, and else an error that wraps ErrCopied.
func (s *Standing) Allowed() error {
	if why := s.Reason(); why != nil {
		return fmt.Errorf("%w: %w; `holdfastd adopt` decides", ErrCopied, why)
	}
	return nil
}

// Within returns a context that ends with ctx, and when the agent stands still.
func (s *Standing) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return true }
	if s.ctx != nil {
		stop = context.AfterFunc(s.ctx, func() { cancel(s.Allowed()) })
	}
	return ctx, func() { stop(); cancel(nil) }
}
