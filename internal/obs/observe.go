package obs

import (
	"context"
	"io"
	"iter"
	"time"
)

// Event tells of one request, or of one try of it where it is repeated.
type Event struct {
	Op       string        // "put", "put new", "read", "stat", "list", "delete" or "extend lock"
	Key      string        // of the object; the prefix of a list; the first key of a delete
	Bytes    int64         // content sent by a put that succeeded, or received by a read
	Duration time.Duration // of this try; of a list, with what its caller did in between
	Err      error         // nil on success; the end of an object is no error of a read
	Retry    int           // 0 for the first try, n for its n-th repetition
}

// observed tells an observer of each call.
type observed struct {
	Store
	observe func(Event)
}

func (o *observed) tell(ctx context.Context, op, key string, start time.Time, n int, err error) {
	retry, _ := ctx.Value(attemptKey{}).(int)
	o.observe(Event{op, key, int64(n), time.Since(start), err, retry})
}

func (o *observed) Put(ctx context.Context, key string, body []byte) error {
	start := time.Now()
	err := o.Store.Put(ctx, key, body)
	o.tell(ctx, opPut, key, start, sent(body, err), err)
	return err
}

func (o *observed) PutNew(ctx context.Context, key string, body []byte) error {
	start := time.Now()
	err := o.Store.PutNew(ctx, key, body)
	o.tell(ctx, opPutNew, key, start, sent(body, err), err)
	return err
}

func sent(body []byte, err error) int {
	if err != nil {
		return 0
	}
	return len(body)
}

func (o *observed) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	start := time.Now()
	n, err := o.Store.ReadAt(ctx, key, p, off)
	told := err
	if told == io.EOF { //nolint:errorlint // the contract is io.EOF itself
		told = nil
	}
	o.tell(ctx, opRead, key, start, n, told)
	return n, err
}

func (o *observed) Stat(ctx context.Context, key string) (Info, error) {
	start := time.Now()
	in, err := o.Store.Stat(ctx, key)
	o.tell(ctx, opStat, key, start, 0, err)
	return in, err
}

func (o *observed) Extend(ctx context.Context, key string, until time.Time) error {
	start := time.Now()
	err := o.Store.Extend(ctx, key, until)
	o.tell(ctx, opExtend, key, start, 0, err)
	return err
}

func (o *observed) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return o.listAfter(ctx, prefix, "")
}

func (o *observed) listAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		start := time.Now()
		var failed error
		defer func() { o.tell(ctx, opList, prefix, start, 0, failed) }()
		for in, err := range listFrom(ctx, o.Store, prefix, after) {
			failed = err
			if !yield(in, err) {
				return
			}
		}
	}
}

func (o *observed) Delete(ctx context.Context, keys ...string) error {
	start := time.Now()
	err := o.Store.Delete(ctx, keys...)
	key := ""
	if len(keys) > 0 {
		key = keys[0]
	}
	o.tell(ctx, opDelete, key, start, 0, err)
	return err
}
