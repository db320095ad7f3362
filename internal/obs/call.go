package obs

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// The names of the operations, in events and in messages.
const (
	opPut    = "put"
	opPutNew = "put new"
	opRead   = "read"
	opStat   = "stat"
	opList   = "list"
	opDelete = "delete"
	opExtend = "extend lock"
)

// lister is an ability that the stores of this package have beyond Store: to begin a
// list after a given key, so that a broken list goes on where it stopped.
type lister interface {
	listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
}

// enter is the beginning of each call on one object.
func enter(ctx context.Context, op, key string) error {
	if err := KeyValid(key); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return noEffect(ended(ctx, op, key))
}

// enterList is the beginning of each List.
func enterList(ctx context.Context, prefix string) error {
	if err := prefixValid(prefix); err != nil {
		return fmt.Errorf("%s: %w", opList, err)
	}
	return ended(ctx, opList, prefix)
}

// ended returns nil while ctx lives, and then an error that is ctx.Err() and the cause of its end.
func ended(ctx context.Context, op, key string) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		return fmt.Errorf("%s %s: %w: %w", op, key, err, cause)
	}
	return fmt.Errorf("%s %s: %w", op, key, context.Cause(ctx))
}

// offsetValid refuses an offset before the object.
func offsetValid(key string, off int64) error {
	if off < 0 {
		return fmt.Errorf("%s %s: %w: offset %d", opRead, key, ErrUsage, off)
	}
	return nil
}
