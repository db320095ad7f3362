package contain_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"holdfast/internal/contain"
)

func explode(value any) error { panic(value) }

func TestCall(t *testing.T) {
	for _, value := range []any{"words", io.EOF, 7, nil} {
		err := contain.Call(func() error { return explode(value) })
		p := contain.Of(fmt.Errorf("job 1: %w", err))
		if p == nil || !strings.Contains(string(p.Stack), "explode") || !strings.Contains(err.Error(), "panic") {
			t.Errorf("panic(%v): %v", value, err)
		}
		if errors.Is(err, io.EOF) {
			t.Error("a panic is taken for the error that it was made with")
		}
		// A panic that goes on keeps its stack.
		again := contain.Call(func() error { panic(p) })
		if contain.Of(again) != p {
			t.Errorf("again: %v", again)
		}
	}
	if err := contain.Call(func() error { return io.EOF }); err != io.EOF || contain.Of(err) != nil { //nolint:errorlint // the very value
		t.Errorf("%v", err)
	}
	if v, err := contain.Value(func() (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	if v, err := contain.Value(func() (int, error) { return 7, explode("x") }); v != 0 || contain.Of(err) == nil {
		t.Errorf("%d, %v", v, err)
	}
}

func TestGroup(t *testing.T) {
	g, ctx := contain.WithContext(t.Context())
	g.SetLimit(1)
	g.Go(func() error { return explode("x") })
	g.Go(func() error { <-ctx.Done(); return nil })
	if err := g.Wait(); contain.Of(err) == nil || contain.Of(context.Cause(ctx)) == nil {
		t.Errorf("%v, %v", err, context.Cause(ctx))
	}
	var zero contain.Group
	if !zero.TryGo(func() error { return explode("x") }) {
		t.Error("not begun")
	}
	if err := zero.Wait(); contain.Of(err) == nil {
		t.Errorf("%v", err)
	}
}
