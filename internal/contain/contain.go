// Package contain turns panics into errors, so that a fault in one piece of work does
// not end the whole program and all other work with it.
//
// All code that an agent runs for a job, for a call or for a look-up uses it, directly or
// through a Group: without it, a panic on a goroutine ends the process, although another
// goroutine waits for it. The error goes up to the function that started
// the work. That function fails the work, counts the panic and logs its stack, once.
//
// Goroutines: a Group starts some, and they have ended when Wait returns. A panic may
// leave a mutex locked or a shared value half changed, so no goroutine may go on to use
// values that the work shared with other work. A crash leaves nothing.
package contain

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// PanicError is a panic that was contained. It is no error of any other kind, for any
// value of the panic, so no caller takes it for a fault that another try would mend.
type PanicError struct {
	Value any    // the argument of panic
	Stack []byte // of the goroutine that panicked, as text
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("a fault of the program itself (panic: %v)", e.Value)
}

// Caught makes the error for a value that recover returned. A panic
// that went on with a PanicError keeps the stack of the first.
func Caught(value any) *PanicError {
	if e, ok := value.(*PanicError); ok {
		return e
	}
	return &PanicError{Value: value, Stack: debug.Stack()}
}

// Call runs do and returns its error. When do panics, the error is a *PanicError.
func Call(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Caught(p)
		}
	}()
	return do()
}

// Value is Call for a function that returns a value as well. After
// a panic the value is the zero value.
func Value[T any](do func() (T, error)) (value T, err error) {
	err = Call(func() (err error) {
		value, err = do()
		return err
	})
	return value, err
}

// Of returns the panic that an error holds, or nil.
func Of(err error) *PanicError {
	e, _ := errors.AsType[*PanicError](err)
	return e
}

// Group runs functions on goroutines of their own, as errgroup.Group
// does, and contains their panics. The zero value is usable.
type Group struct{ group *errgroup.Group }

// WithContext makes a Group, and a context that ends when a
// function of the Group fails or Wait returns.
func WithContext(ctx context.Context) (*Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &Group{g}, ctx
}

func (g *Group) get() *errgroup.Group {
	if g.group == nil {
		g.group = &errgroup.Group{}
	}
	return g.group
}

// Go runs do on a goroutine of its own. It waits while as many functions run as SetLimit allows.
func (g *Group) Go(do func() error) { g.get().Go(func() error { return Call(do) }) }

// TryGo is Go, but false where Go would wait.
func (g *Group) TryGo(do func() error) bool {
	return g.get().TryGo(func() error { return Call(do) })
}

// SetLimit bounds how many functions run at a time. It must not be called while one runs.
func (g *Group) SetLimit(n int) { g.get().SetLimit(n) }

// Wait waits for all functions, and returns the first error.
func (g *Group) Wait() error { return g.get().Wait() }
