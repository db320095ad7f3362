package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"holdfast/internal/contain"
	"holdfast/internal/durable"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// Two copies of a state folder can have equal facts: machines whose disks were cloned under the
// same hardware ids, containers that know no hardware. The store tells such copies apart, since
// both use it. Each agent puts a look into each vault that it uses, and writes the look's name
// into its state folder before. A look that the folder does not know is of another copy.
//
// What decides who goes on is which of them is continuous. A life that finds a look of a life
// which began after its own, from its own state, is the original, and goes on. A life
// that finds any other look which it does not know stands still, and puts none. See DESIGN.md.

// LooksFile is the name of the file in the state folder
// that lists the looks which this folder put into vaults.
const LooksFile = "host-looks.json"

// Times and bounds of looks, each with its reason.
const (
	// lookEvery is how often each vault is looked at, which bounds for how long two copies with
	// equal facts work beside each other. A look is a list, a put and a delete.
	lookEvery = 5 * time.Minute
	// firstLooks bounds the looks before the jobs go on at the start: without the store
	// held instances have to be let go all the same.
	firstLooks = 10 * time.Second
	// vaultLookers is how many vaults are looked at together at the start.
	vaultLookers = 8
	// keepNames is how many names of looks are kept for each vault. A look of an own life whose
	// number is smaller by as much was deleted once, and the store brought it back.
	keepNames = 16
	// keepLives is how many of its lives a folder remembers: where the looks of this host can't be
	// deleted, the looks of a forgotten life would be taken for looks of a copy.
	keepLives = 4096
)

// life is one life of an agent with this state folder.
type life struct {
	ID    string `json:"id"`
	Count uint64 `json:"count"` // of its last look
}

// lookState is what LooksFile holds.
type lookState struct {
	Identity string              `json:"identity"`
	Lives    []life              `json:"lives"`
	Names    map[string][]string `json:"names"` // of looks, by vault, the latest last
	// Copies are lives that were found to be of copies, and that stand still.
	Copies []string `json:"copies,omitempty"`
	// Still is why the agent stands still since it met another copy; "" while it works.
	Still string `json:"still,omitempty"`
	// Orphan says that the next life is to name no parent: a person had this folder take over, and
	// the life before is of the other copy too, which would take this one for a copy of its own.
	Orphan bool `json:"orphan,omitempty"`
	// Taken says that a person had this folder take over: in each vault
	// that is not in Seen yet the looks that are found do not count.
	Taken bool     `json:"taken,omitempty"`
	Seen  []string `json:"seen,omitempty"`
}

// lookedAt are the vaults that are looked at: the vault of a tenant, which
// is looked at when it is opened, and all vaults that are open.
type lookedAt interface {
	Existing(ctx context.Context, tenant string) (*vault.Vault, error)
	opened(ctx context.Context) []*vault.Vault
}

// Looks puts looks and judges the looks that it finds. It is for any goroutine.
type Looks struct {
	log      *slog.Logger
	self     Self
	standing *Standing
	path     string
	vaults   lookedAt
	tenants  map[string]bool // of the configuration

	before lastLooks // the looks before power-downs

	mu     sync.Mutex
	life   string // of this agent
	parent string // the life of this folder before
	s      lookState
	mine   map[string]bool // names of looks that were read and are of this folder
	stays  map[string]bool // vaults, by id, in which a look of this life stays, as none can be deleted
}

// NewLooks makes the looks of one life of an agent; path is of the file LooksFile.
func NewLooks(log *slog.Logger, host Self, s *Standing, path string) *Looks {
	return &Looks{
		log: log, self: host, standing: s, path: path, life: randomID(), s: lookState{Identity: host.Identity.ID, Names: map[string][]string{}},
		mine: map[string]bool{}, stays: map[string]bool{},
	}
}

// Begin gives the vaults and the tenants of the configuration. It comes before First.
func (l *Looks) Begin(v lookedAt, tenants map[string]bool) { l.vaults, l.tenants = v, tenants }

func randomID() string {
	var r [16]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(r[:])
}

// readLooks reads the file; a zero state where there is none.
func readLooks(path string) (s lookState, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return lookState{Names: map[string][]string{}}, nil
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if s.Names == nil {
		s.Names = map[string][]string{}
	}
	return s, nil
}

func writeLooks(path string, s lookState) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(data, '\n'), 0o600)
}

// Load reads what earlier lives have put, and returns why the agent has to stand still. Without
// the file, or with a damaged one, the looks of earlier lives are unknown, and so of a copy.
func (l *Looks) Load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := readLooks(l.path)
	switch {
	case err != nil:
		l.log.Error("the file of this host's looks can't be read", keyError, err.Error())
		return nil // the first look finds the looks that this folder put
	case s.Identity != "" && s.Identity != l.s.Identity:
		return fmt.Errorf("%s is of another identity than the folder", l.path)
	case s.Still != "":
		return errors.New(s.Still)
	}
	s.Identity = l.s.Identity
	l.s = s
	if n := len(s.Lives); n > 0 && !s.Orphan {
		l.parent = s.Lives[n-1].ID
	}
	return nil
}

// errOther says that another copy of the state folder is, or was, alive.
var errOther = errors.New("another copy of this state folder is alive, or the folder was set back to an earlier state, or lost the file " + LooksFile)

// judge sorts the looks of a vault: the names of own looks, and an error
// where a look is of a copy for which this agent has to stand still.
func (l *Looks) judge(id string, found []vault.Look) (own []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	accepts := l.s.Taken && !slices.Contains(l.s.Seen, id)
	for _, f := range found {
		switch {
		case slices.Contains(l.s.Names[id], f.Name), l.mine[f.Name], l.broughtBack(f):
			own = append(own, f.Name)
			if f.Life != "" { // it was read
				l.mine[f.Name] = true
			}
		case slices.Contains(l.s.Copies, f.Life):
		case f.Parent == l.life, accepts:
			l.s.Copies = append(l.s.Copies, f.Life)
			if !accepts {
				l.log.Error("a copy of this state folder was started; this agent is the one that goes on, and the other stands still at its next look",
					"host", f.Host, "machine", f.Machine)
			}
		default:
			return nil, fmt.Errorf("%w: vault %s has a look which this folder never put, of host %q on machine %q, at %s by the clock there",
				errOther, id, f.Host, f.Machine, f.At.UTC().Format(time.RFC3339))
		}
	}
	return own, nil
}

// broughtBack tells whether a look is one of this folder's that is too old to be among the names:
// the store brought it back, or it could not be deleted. Of a life that has ended, all looks that
// the life put count. The caller holds mu.
func (l *Looks) broughtBack(f vault.Look) bool {
	i := slices.IndexFunc(l.s.Lives, func(of life) bool { return of.ID == f.Life })
	if i < 0 {
		return false
	}
	over := i < len(l.s.Lives)-1 && f.Count <= l.s.Lives[i].Count
	return over || f.Count+keepNames <= l.s.Lives[i].Count
}

// known tells whether the name is of a look that this folder put.
func (l *Looks) known(id, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine[name] || slices.Contains(l.s.Names[id], name)
}

// copies counts the copies of this host that were found.
func (l *Looks) copies() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.s.Copies)
}

// stayed tells whether a look of this life stays in the vault, because the store lets this host
// delete none.
func (l *Looks) stayed(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stays[id]
}

// tidy removes earlier looks of this host. That the store lets this host delete none is no fault.
func (l *Looks) tidy(ctx context.Context, v *vault.Vault, own []string) error {
	err := v.DeleteLooks(ctx, own...)
	refused := errors.Is(err, obs.ErrAccess)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stays[v.Info().ID] = refused
	if refused {
		return nil
	}
	return err
}

// see lists the looks in a vault, and makes the agent stand still for one of another copy.
func (l *Looks) see(ctx context.Context, v *vault.Vault) (own []string, err error) {
	if err := l.standing.Allowed(); err != nil {
		return nil, err
	}
	id := v.Info().ID
	found, err := v.Looks(ctx, l.self.Identity.ID, func(name string) bool { return l.known(id, name) })
	own, bad := l.judge(id, found)
	if bad != nil {
		l.stand(bad)
		return nil, l.standing.Allowed()
	}
	if errors.Is(err, vault.ErrCorrupt) {
		l.log.Warn("a look in a vault is damaged, and says nothing of copies of this host", "vault", id, keyError, err.Error())
		err = nil
	}
	return own, err
}

// errNotLeft says that the own look did not get into the vault.
var errNotLeft = errors.New("this host could not leave a look in a vault, by which a copy of the host would find out that it is one")

// Look sees whether a copy has used the vault, and puts a look of its own. What keeps
// it from putting one is logged, since restores need no more of the store than to be read.
//
// Where looks can't be deleted, one look of a life stays, and is enough: a copy that begins later
// does not know it, or puts a look itself, at which this host puts another one.
func (l *Looks) Look(ctx context.Context, v *vault.Vault) error {
	if l.stayed(v.Info().ID) {
		before := l.copies()
		if _, err := l.see(ctx, v); err != nil || l.copies() == before {
			return err
		}
	}
	err := l.leave(ctx, v)
	if !errors.Is(err, errNotLeft) {
		return err
	}
	if ctx.Err() == nil {
		l.log.Warn(errNotLeft.Error(), "vault", v.Info().ID, keyError, err.Error())
	}
	return nil
}

// leave sees whether a copy has used the vault, and puts a look of its own.
// errNotLeft where no copy was found, and the own look may not be in the vault.
func (l *Looks) leave(ctx context.Context, v *vault.Vault) error {
	own, err := l.see(ctx, v)
	if err != nil {
		return err
	}
	id := v.Info().ID
	mine, err := l.intend(v)
	if err == nil {
		err = v.PutLook(ctx, mine)
	}
	left := err == nil
	if left {
		err = errors.Join(l.saw(id), l.tidy(ctx, v, own))
	}
	if still := l.standing.Allowed(); still != nil {
		return still
	}
	if !left {
		return fmt.Errorf("%w: vault %s: %w", errNotLeft, id, err)
	}
	if err != nil && ctx.Err() == nil {
		l.log.Warn("earlier looks of this host stay in a vault until its next look", "vault", id, keyError, err.Error())
	}
	return nil
}

// intend makes the next look, and writes its name down.
func (l *Looks) intend(v *vault.Vault) (vault.Look, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, id := &l.s, v.Info().ID
	if n := len(s.Lives); n == 0 || s.Lives[n-1].ID != l.life {
		s.Lives = append(s.Lives, life{ID: l.life})
		s.Lives = s.Lives[max(0, len(s.Lives)-keepLives):]
	}
	now := &s.Lives[len(s.Lives)-1]
	now.Count++
	s.Orphan = false
	name := v.LookName(s.Identity)
	names := append(slices.Clone(s.Names[id]), name)
	s.Names[id] = names[max(0, len(names)-keepNames):]
	if err := writeLooks(l.path, *s); err != nil {
		return vault.Look{}, err
	}
	machine, _ := os.Hostname() // for people
	return vault.Look{
		Name: name, Life: l.life, Parent: l.parent, Count: now.Count, Host: l.self.Host, Machine: machine, At: time.Now().UTC(),
	}, nil
}

// saw notes that the look of a folder that took over is in the vault.
func (l *Looks) saw(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.s.Taken || slices.Contains(l.s.Seen, id) {
		return nil
	}
	l.s.Seen = append(l.s.Seen, id)
	return writeLooks(l.path, l.s)
}

// stand makes the agent stand still, now and after each start.
func (l *Looks) stand(why error) {
	l.standing.Halt(why)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.Still = why.Error()
	if err := writeLooks(l.path, l.s); err != nil {
		l.log.Error("the next start finds out again, by the vaults, that this folder is a copy", keyError, err.Error())
	}
}

// First looks at the vaults of all configured tenants, before jobs go on and reports leave. It
// gives up after a while: then each vault is looked at when it is opened.
func (l *Looks) First(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstLooks)
	defer cancel()
	group, ctx := contain.WithContext(ctx)
	group.SetLimit(vaultLookers)
	for tenant := range maps.Keys(l.tenants) {
		group.Go(func() error {
			_, err := l.vaults.Existing(ctx, tenant) // which looks at a vault that it opens
			if err != nil && !errors.Is(err, vault.ErrNoVault) && l.standing.Reason() == nil {
				l.log.Warn("at the start nobody knows whether a copy of this host has used a vault; the agent looks when it opens the vault",
					"tenant", tenant, keyError, err.Error())
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		l.log.Error("the look for copies of this host failed", keyError, err.Error())
	}
}

// Watch looks at all vaults that are open, for as long as the agent works.
func (l *Looks) Watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.Round(ctx)
		case <-l.standing.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// Round looks once at all vaults that are open.
func (l *Looks) Round(ctx context.Context) {
	for _, v := range l.vaults.opened(ctx) {
		within, cancel := context.WithTimeout(ctx, settleTime)
		if err := l.Look(within, v); err != nil && l.standing.Reason() == nil && ctx.Err() == nil {
			l.log.Warn("nobody knows whether a copy of this host uses a vault", "vault", v.Info().ID, keyError, err.Error())
		}
		cancel()
	}
}

// TakeLooks has the next life of the agent go on whatever looks it finds.
func TakeLooks(path, owner string) error {
	s, err := readLooks(path)
	if err != nil || owner != "" && s.Identity != owner {
		s = lookState{Identity: owner, Names: map[string][]string{}}
	}
	s.Still, s.Taken, s.Seen, s.Orphan = "", true, nil, true
	return writeLooks(path, s)
}
