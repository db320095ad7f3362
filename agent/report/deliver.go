package report

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"holdfast/agent/model"
	"holdfast/internal/contain"
)

// Outbox keeps events until they are settled. Its methods are called from one goroutine at a time.
type Outbox interface {
	// Heads returns at most limit events, oldest first: the oldest
	// of each instance, except instances that skip leaves out.
	Heads(limit int, skip func(instance string) bool) ([]model.Event, error)
	// TakeProgress returns at most limit events that are not kept, of instances without
	// any other event and that skip does not tell to leave out. Each is returned once.
	TakeProgress(limit int, skip func(instance string) bool) ([]model.Event, error)
	// Acknowledge settles events that the control plane took: all of
	// them, or none when it returns an error.
	Acknowledge(seqs ...uint64) error
	// Refuse settles an event that the control plane will never take.
	Refuse(seq uint64, reason string) error
	// Changed has a token whenever there may be something new.
	Changed() <-chan struct{}
}

// Bounds of delivery, each with its reason.
const (
	// DefaultTimeout bounds one request: most receivers answer within a second.
	DefaultTimeout = 30 * time.Second
	// DefaultBatch is how many events go into one request to a receiver that takes batches.
	DefaultBatch = 100
	// batchBytes bounds the data of a batch: receivers and what stands before them take a megabyte.
	batchBytes = 512 << 10
	// batchRest is how long no batch is sent after the receiver did not understand a batch.
	batchRest = 10 * time.Minute
	// atOnce bounds the requests on their way; each is of other instances.
	atOnce = 8
)

// Attempt is one try to deliver one event.
type Attempt struct {
	Event    model.Event
	Took     time.Duration
	Err      error // why it was not acknowledged; nil: it was
	Refused  bool  // Err is final: the event is settled
	Failures int   // of this event, in a row, since the receiver last counted as away
}

// Options are the settings of a Deliverer.
type Options struct {
	URL    string       // where events are POSTed; CheckURL must take it
	Source string       // the CloudEvents source: this host
	Client *http.Client // see NewClient
	// bearer token, read before each request so that it can be replaced; "" sends none
	TokenFile string
	UserAgent string
	Timeout   time.Duration // of one request; 0 is DefaultTimeout
	Any2xx    bool          // see Judge
	// events in one request, at most, to a receiver that takes
	// batches; 0 is DefaultBatch, 1 sends none
	Batch int
	// Attempted is told of each try. May be nil. It is called on Run's goroutine, as Away is.
	Attempted func(Attempt)
	// Away is told when the receiver begins to count as away, and why,
	// and with nil when the control plane answers again. May be nil.
	Away func(err error)
}

// Deliverer sends the events of an outbox until each is settled:
// the events of one instance one after the other, in order.
type Deliverer struct {
	outbox Outbox
	opts   Options
}

// New returns a Deliverer. Run starts it.
func New(outbox Outbox, opts Options) (*Deliverer, error) {
	if err := CheckURL(opts.URL); err != nil {
		return nil, err
	}
	if opts.Attempted == nil {
		opts.Attempted = func(Attempt) {}
	}
	if opts.Away == nil {
		opts.Away = func(error) {}
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Batch == 0 {
		opts.Batch = DefaultBatch
	}
	return &Deliverer{outbox: outbox, opts: opts}, nil
}

// line is the delivery of one instance's events, while one is on its way or after one failed.
type line struct {
	busy     bool
	alone    bool // the event goes into no batch
	failures int
	tried    time.Time
	next     time.Time
}

// run is the state of one call of Run.
type run struct {
	*Deliverer
	ctx      context.Context
	requests sync.WaitGroup
	done     chan outcome // never blocks a request that ends after Run has stopped listening
	flying   int
	lines    map[string]*line
	breaker  breaker
	probing  bool
	batches  bool      // the receiver says that it takes them
	noBatch  time.Time // until then none is sent
}

// Run delivers until ctx ends, and returns when no request is on its way.
// The error is the outbox's: events that can't be read can't be delivered.
func (d *Deliverer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	r := &run{Deliverer: d, ctx: ctx, done: make(chan outcome, atOnce+1), lines: map[string]*line{}}
	defer r.requests.Wait()
	defer cancel()
	for {
		if err := r.launch(); err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		timer := time.NewTimer(r.wait())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case o := <-r.done:
			r.settle(r.gather(o))
		case <-d.outbox.Changed():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// gather takes the other outcomes that have arrived, so that one flush of the outbox serves all.
func (r *run) gather(first outcome) []outcome {
	all := []outcome{first}
	for {
		select {
		case o := <-r.done:
			all = append(all, o)
		default:
			return all
		}
	}
}

// launch begins the requests that may begin now.
func (r *run) launch() error {
	now := time.Now()
	if r.breaker.away {
		return r.probe(now)
	}
	skip := func(instance string) bool {
		l := r.lines[instance]
		return l != nil && (l.busy || l.next.After(now))
	}
	for free := atOnce - r.flying; free > 0; free = atOnce - r.flying {
		size := 1
		if r.batches && r.opts.Batch > 1 && !now.Before(r.noBatch) {
			size = r.opts.Batch
		}
		events, err := r.outbox.Heads(free*size, skip)
		if err != nil {
			return err
		}
		if room := free*size - len(events); room > 0 {
			progress, err := r.outbox.TakeProgress(room, skip)
			if err != nil {
				return err
			}
			events = append(events, progress...)
		}
		if len(events) == 0 {
			return nil
		}
		for len(events) > 0 && r.flying < atOnce {
			n := r.batch(events, size)
			r.start(events[:n:n], false)
			events = events[n:]
		}
	}
	return nil
}

// batch tells how many of the events go into one request.
func (r *run) batch(events []model.Event, size int) (n int) {
	bytes := 0
	for n < min(size, len(events)) {
		e := events[n]
		l := r.lines[e.Instance]
		alone := l != nil && l.alone
		if bytes += len(e.Data); n > 0 && (alone || bytes > batchBytes) {
			break
		}
		n++
		if alone {
			break
		}
	}
	return n
}

// probe sends one event to a receiver that is away, when it is
// time: of the line that was tried least lately.
func (r *run) probe(now time.Time) error {
	if r.probing || now.Before(r.breaker.next) {
		return nil
	}
	events, err := r.outbox.Heads(1, func(instance string) bool { return r.lines[instance] != nil })
	for err == nil && len(events) == 0 {
		var least string
		for name, l := range r.lines {
			if !l.busy && (least == "" || l.tried.Before(r.lines[least].tried)) {
				least = name
			}
		}
		if least == "" {
			return nil // nothing waits, or all that does is on its way
		}
		if events, err = r.outbox.Heads(1, func(instance string) bool { return instance != least }); len(events) == 0 {
			delete(r.lines, least) // its event is settled
		}
	}
	if err != nil {
		return err
	}
	r.probing = true
	r.start(events, true)
	return nil
}

func (r *run) start(events []model.Event, probe bool) {
	now := time.Now()
	for _, e := range events {
		l := r.lines[e.Instance]
		if l == nil {
			l = &line{}
			r.lines[e.Instance] = l
		}
		l.busy, l.tried = true, now
	}
	r.flying++
	r.requests.Go(func() {
		o := outcome{sent: events}
		if err := contain.Call(func() error { o = r.send(r.ctx, events); return nil }); err != nil {
			o.err = err
		}
		o.probe = probe
		r.done <- o
	})
}

// wait is how long there is nothing to do but to listen.
func (r *run) wait() time.Duration {
	wait, now := time.Hour, time.Now()
	if r.breaker.away {
		if left := r.breaker.next.Sub(now); !r.probing && left > 0 {
			wait = min(wait, left)
		}
		return wait
	}
	for _, l := range r.lines {
		if left := l.next.Sub(now); !l.busy && left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}

// settle takes the outcomes of requests. An outbox that can't be written (a full
// disk) is a failure as any other: the event is sent again, with the same id.
func (r *run) settle(all []outcome) {
	var taken []uint64
	for i := range all {
		o := &all[i]
		for j, e := range o.sent {
			switch {
			case o.err != nil || e.Seq == 0:
			case o.results[j].verdict == Acknowledged:
				taken = append(taken, e.Seq)
			case o.results[j].verdict == Refused:
				refuse := func() error { return r.outbox.Refuse(e.Seq, o.results[j].err.Error()) }
				if err := contain.Call(refuse); err != nil {
					o.results[j] = result{err: unjournalled(e, err)}
				}
			}
		}
	}
	if len(taken) > 0 {
		if err := contain.Call(func() error { return r.outbox.Acknowledge(taken...) }); err != nil {
			for _, o := range all {
				for j, e := range o.sent {
					if o.err == nil && e.Seq != 0 && o.results[j].verdict == Acknowledged {
						o.results[j] = result{err: unjournalled(e, err)}
					}
				}
			}
		}
	}
	for _, o := range all {
		r.note(o)
	}
}

func unjournalled(e model.Event, err error) error {
	return fmt.Errorf("journal the answer to report %s: %w", e.ID, err)
}

// note updates the state of the lines and of the receiver by the outcome of a request.
func (r *run) note(o outcome) {
	r.flying--
	if o.probe {
		r.probing = false
	}
	if r.ctx.Err() != nil && o.err != nil {
		for _, e := range o.sent {
			r.lines[e.Instance].busy = false
		}
		return // interrupted, not failed
	}
	now := time.Now()
	r.batches = r.batches && o.batches >= 0 || o.batches > 0
	if o.batches < 0 {
		r.noBatch = now.Add(batchRest)
	}
	answered, failed := false, o.err
	for j, e := range o.sent {
		l := r.lines[e.Instance]
		l.busy = false
		res := result{err: o.err}
		if o.err == nil {
			res = o.results[j]
		}
		switch {
		case res.verdict != Unsettled, e.Seq == 0:
			delete(r.lines, e.Instance)
		case res.alone:
			l.alone = true
		default:
			l.failures++
			l.next = now.Add(pause(l.failures, o.after))
		}
		answered = answered || res.verdict != Unsettled
		if res.verdict == Unsettled && !res.alone {
			failed = res.err
		}
		r.opts.Attempted(Attempt{Event: e, Took: o.took, Err: res.err, Refused: res.verdict == Refused, Failures: l.failures})
	}
	switch {
	case answered:
		if r.breaker.answered() {
			for name, l := range r.lines {
				if !l.busy && !l.alone {
					delete(r.lines, name) // all may go at once
				}
			}
			r.opts.Away(nil)
		}
	case failed != nil:
		if r.breaker.failed(now, o.probe, o.after) {
			r.opts.Away(failed)
		}
	}
}
