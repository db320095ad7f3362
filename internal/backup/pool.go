package backup

import (
	"context"
	"runtime"

	"golang.org/x/sys/unix"

	"holdfast/internal/backup/blockshare"
	"holdfast/internal/backup/known"
	"holdfast/internal/pressure"
	"holdfast/internal/seal"
	"holdfast/internal/vault"
)

// Pool holds everything that the backups of one host share, so that a hundred backups
// take no more than one: the memory of packs, and the memory of the workers, which
// are not many more than the processors. Any number of Runs may use it at once.
//
// Each Run has one worker of its own, so a small instance makes
// progress beside a huge one. The other workers are lent to each Run
// that has work for them, a unit at a time, first come first served.
type Pool struct {
	// Brake slows the workers down in rounds of pre-copy; nil does not.
	Brake *pressure.Brake

	blocks *blockshare.Table // of images
	// sessions of the Runs under way
	sessions *sessions
	// distrusted are the means by which a change of a volume was not seen
	distrusted known.Distrusted
	buffers    *vault.Buffers
	runs       chan struct{} // a token of each Run that has content to store
	// again has one of a Run that has to be made again, whose
	// instance stands still: it does not wait behind all that begin.
	again chan struct{}
	// finishing has one of each that has none any more, but is not at its end.
	finishing chan struct{}
	lendable  int                // workers that are lent
	free      chan *workerMemory // unused buffers
	toWaiting chan *workerMemory // from an idle worker to a waiting worker
}

// PoolOptions are the bounds of a Pool.
type PoolOptions struct {
	// Budget bounds the memory for content on its way, bytes; 0 is 64
	// MiB. Less than the least that works is taken as that.
	Budget int64
	// Runs is how many backups may have content to store at once, and how
	// many more may finish; 0 is one. More of them wait for each other.
	Runs int
	// Workers is how many goroutines read, hash and compress for one
	// backup that is alone; 0 is one more than there are processors.
	Workers int
	// MaxLevel is the strongest compression of the backups, on which
	// the memory of a worker depends; 0 is seal.Default.
	MaxLevel seal.Level
	// Pack is the size of the vaults' packs, bytes; 0 is the size in vault.DefaultParams.
	Pack int
}

const (
	defaultBudget = 64 << 20
	// mostPacks is where more packs on their way are of no more use, for one backup.
	mostPacks = 16
)

// NewPool divides the budget.
func NewPool(o PoolOptions) *Pool {
	if o.Budget <= 0 {
		o.Budget = defaultBudget
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0) + 1
	}
	if o.MaxLevel == 0 {
		o.MaxLevel = seal.Default
	}
	if o.Pack == 0 {
		o.Pack = vault.DefaultParams().Pack
	}
	o.Runs = max(o.Runs, 1)
	worker := memoryOfWorker(seal.S2, o.MaxLevel)
	// A host with many processors and a small budget has fewer
	// workers than processors: packs come first.
	most := max(int(o.Budget/2/worker)-o.Runs, 0)
	p := &Pool{
		lendable: max(min(o.Workers-1, most), min(o.Workers-1, 1)), toWaiting: make(chan *workerMemory), blocks: blockshare.NewTable(), sessions: newSessions(),
		runs: make(chan struct{}, o.Runs), again: make(chan struct{}, 1), finishing: make(chan struct{}, o.Runs),
	}
	left := o.Budget - int64(o.Runs+cap(p.again)+p.lendable)*worker
	// Each Run fills one pack, so with fewer than one for each they
	// could wait for each other for ever.
	packs := max(int(left/int64(o.Pack)), o.Runs+cap(p.again)+1)
	p.buffers = vault.NewBuffers(min(packs, max(mostPacks, o.Runs+cap(p.again)+1)))
	p.free = make(chan *workerMemory, p.lendable)
	for range p.lendable {
		p.free <- nil // made when it is first lent
	}
	return p
}

// BeginJob begins a job. End is due when nobody runs anything under it any more.
func (p *Pool) BeginJob() *Job { return &Job{sessions: p.sessions} }

// BeginView says that a snapshot of that name (Source.View) stands and stays after the Runs
// that read it, until as many calls of EndView. Without it, a view is known while Runs read it.
func (p *Pool) BeginView(name string) { p.blocks.BeginView(name) }

// EndView must be called before the view is removed, or written to.
// For a name that is not known it does nothing.
func (p *Pool) EndView(name string) { p.blocks.EndView(name) }

// borrow waits for a worker's memory, until ctx ends. Meanwhile it offers work to the receivers of
// takers, which may be nil. When a receiver took the work, there is neither memory nor an error.
func borrow[T any](ctx context.Context, p *Pool, work T, takers chan<- T) (*workerMemory, error) {
	select {
	case s := <-p.free:
		if s == nil {
			s = &workerMemory{}
		}
		return s, nil
	case s := <-p.toWaiting:
		return s, nil
	case takers <- work:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *Pool) giveBack(s *workerMemory) { p.free <- s }

// inBackground gives the thread of the calling goroutine the lowest priority: for CPU by its
// nice value, for I/O by the idle class (ioprio_set(2)). The thread ends with the goroutine,
// so nothing has to be put back. A kernel that refuses costs politeness and nothing else.
func inBackground() {
	const (
		whoProcess = 1       // IOPRIO_WHO_PROCESS: a thread, despite its name
		idleClass  = 3 << 13 // IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)
		nice       = 10
	)
	runtime.LockOSThread()
	tid := unix.Gettid()
	_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(tid), idleClass)
}
