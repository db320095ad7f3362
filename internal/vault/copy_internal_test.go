package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/obs/obstest"
)

// copySides are a vault with some backups, and an empty destination.
type copySides struct {
	v    *Vault
	id   *Identity
	from obs.Store
	to   obs.Store
}

func newCopySides(t *testing.T, backups int) *copySides {
	t.Helper()
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		t.Fatal(err)
	}
	from := obs.NewMemory()
	return &copySides{verifyVault(t, from, backups), id, from, obs.NewMemory()}
}

// options are the options of a copy with the key, or without.
func (s *copySides) options(keyed bool) CopyOptions {
	o := CopyOptions{ID: s.v.info.ID}
	if keyed {
		o.Vault = s.v
	}
	return o
}

// mustCopy copies all, and wants the copy to be whole.
func (s *copySides) mustCopy(t *testing.T, o CopyOptions) CopyReport {
	t.Helper()
	r, err := Copy(t.Context(), s.from, s.to, o)
	if err != nil || !r.Whole() {
		t.Fatalf("copy: %+v, %v", r, err)
	}
	return r
}

// sound opens the vault in a store, and wants every backup of it to be whole. It returns how many
// backups there are; -1 where there is no vault.
func (s *copySides) sound(t *testing.T, st obs.Store) int {
	t.Helper()
	v, err := Open(t.Context(), st, "verify", nil, s.id)
	if errors.Is(err, ErrNoVault) {
		return -1
	}
	if err != nil {
		t.Fatalf("open the copy: %v", err)
	}
	r, err := v.Verify(t.Context(), VerifyOptions{ReadDataPercent: 100})
	if err != nil || r.Findings() > 0 {
		t.Fatalf("the copy is not sound: %+v, %v", r, err)
	}
	return r.Backups
}

func bothWays(t *testing.T, f func(t *testing.T, keyed bool)) {
	for _, keyed := range []bool{false, true} {
		t.Run(map[bool]string{false: "without key", true: "with key"}[keyed], func(t *testing.T) { f(t, keyed) })
	}
}

// dying is a store that ends with the nth change: the call that meets the end has an effect or not.
type dying struct {
	obs.Store
	mu     sync.Mutex
	left   int
	effect bool
}

var errPowerCut = fmt.Errorf("the power was cut: %w", obs.ErrUnavailable)

func (d *dying) change(work func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left--
	switch {
	case d.left > 0:
		return work()
	case d.left == 0 && d.effect:
		return errors.Join(errPowerCut, work())
	}
	return errPowerCut
}

func (d *dying) Put(ctx context.Context, key string, body []byte) error {
	return d.change(func() error { return d.Store.Put(ctx, key, body) })
}

func (d *dying) Delete(ctx context.Context, keys ...string) error {
	return d.change(func() error { return d.Store.Delete(ctx, keys...) })
}

// TestCopyIsAVaultAtEveryInstant kills a copy at each change of the destination, and wants
// a destination without a vault, or a vault in which all is whole; the next copy ends the work.
func TestCopyIsAVaultAtEveryInstant(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		o := s.options(keyed)
		// A first part, so that the destination is a vault while a copy is under way.
		first := obs.NewMemory()
		s.to = first
		s.mustCopy(t, o)
		backupOf(t, s.v, "i0", 3, 300, 315)
		backupOf(t, s.v, "i1", 3, 310, 325)
		for _, begun := range []bool{false, true} {
			for n := 1; ; n++ {
				to := obs.NewMemory()
				if begun {
					mirror(t, first, to)
				}
				_, err := Copy(t.Context(), s.from, &dying{Store: to, left: n, effect: (n%2 == 0) == keyed}, o)
				if err != nil && !errors.Is(err, errPowerCut) {
					t.Fatalf("killed at change %d: %v", n, err)
				}
				got := s.sound(t, to)
				if begun && got < 2 || !begun && err != nil && got >= 0 && got < 4 {
					t.Fatalf("killed at change %d: the copy shows %d backups", n, got)
				}
				s.to = to
				s.mustCopy(t, o)
				if got := s.sound(t, to); got != 4 {
					t.Fatalf("the copy after the one that was killed at change %d has %d backups", n, got)
				}
				if err == nil {
					break
				}
			}
		}
	})
}

// mirror puts all objects of one store into another.
func mirror(t *testing.T, from, to obs.Store) {
	t.Helper()
	for in, err := range from.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		var buf []byte
		body, err := readWhole(t.Context(), from, in.Key, in.Size, &buf)
		if err == nil {
			err = to.Put(t.Context(), in.Key, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// afterList is a store that does something after a list of a prefix.
type afterList struct {
	obs.Store
	prefix string
	times  int
	do     func()
}

func (a *afterList) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	return func(yield func(obs.Info, error) bool) {
		for in, err := range a.Store.List(ctx, prefix) {
			if !yield(in, err) {
				return
			}
		}
		if strings.HasPrefix(prefix, a.prefix) && a.times > 0 {
			a.times--
			a.do()
		}
	}
}

// collect removes a backup, and the packs that no other backup names.
func collect(t *testing.T, v *Vault, ref BackupRef) {
	t.Helper()
	if err := v.st.Delete(t.Context(), v.manifestKey(ref.Instance, ref.ID)); err != nil {
		t.Fatal(err)
	}
	named, err := v.namedPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := v.packRefs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if !named[p.ID] {
			if err := v.st.Delete(t.Context(), v.packKey(p.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCopyBesideTheSource: a collector and writers are at work at the source while it is copied.
func TestCopyBesideTheSource(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 4)
		refs, err := s.v.Backups(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		// Of chunks that no other backup has, so that its packs go.
		backupOf(t, s.v, "old", 1, 500, 540)
		all, err := s.v.Backups(t.Context(), "old")
		if err != nil {
			t.Fatal(err)
		}
		inner := s.from
		s.from = &afterList{Store: inner, prefix: s.v.info.ID + "/packs/", times: 1, do: func() {
			collect(t, s.v, all[0])
			backupOf(t, s.v, "new", 1, 600, 640)
		}}
		r := s.mustCopy(t, s.options(keyed))
		if r.Gone == 0 {
			t.Error("nothing went while it was copied: the test shows nothing")
		}
		if got := s.sound(t, s.to); got != len(refs) {
			t.Errorf("the copy has %d backups, want %d", got, len(refs))
		}
		s.from = inner
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != len(refs)+1 {
			t.Errorf("the next copy has %d backups, want %d", got, len(refs)+1)
		}
	})
}

// TestCopyOfDamage: an object that came damaged once is read again, and an object that
// stays damaged is reported; with the key the backups that do not need it are copied.
func TestCopyOfDamage(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 4)
		faulty := obstest.NewFaulty(s.from)
		inner := s.from
		s.from = faulty
		last := func(p []byte, off int64) { p[len(p)-1] ^= 1 }
		isPack := func(key string) bool { return strings.Contains(key, "/packs/") }
		faulty.Inject(obstest.Fault{Op: obstest.Read, Key: isPack, Times: 1, Corrupt: last})
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != 4 {
			t.Fatalf("the copy has %d backups", got)
		}

		s.to = obs.NewMemory()
		faulty.Heal()
		own := ownPack(t, s.v)
		faulty.Inject(obstest.Fault{Op: obstest.Read, Key: func(key string) bool { return key == s.v.packKey(own) }, Corrupt: last})
		r, err := Copy(t.Context(), s.from, s.to, s.options(keyed))
		if err != nil || len(r.Failed) == 0 || len(r.LeftOut) == 0 || !strings.Contains(fmt.Sprint(r.Failed), s.v.packKey(own)) {
			t.Fatalf("copy of a damaged pack: %+v, %v", r, err)
		}
		want := map[bool]int{false: -1, true: 4 - len(r.LeftOut)}[keyed]
		if got := s.sound(t, s.to); got != want {
			t.Errorf("the copy has %d backups, want %d", got, want)
		}
		// The source is whole again, and so is the next copy.
		s.from = inner
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != 4 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

// ownPack is a pack that one backup names and another does not.
func ownPack(t *testing.T, v *Vault) PackID {
	t.Helper()
	refs, err := v.Backups(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	times := map[PackID]int{}
	for _, ref := range refs {
		m, err := v.Manifest(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.Packs {
			times[p.ID]++
		}
	}
	for id, n := range times {
		if n < len(refs) {
			return id
		}
	}
	t.Fatal("all backups name all packs")
	return PackID{}
}

// TestCopyCutOff: a proxy that truncates leaves no object in the copy that is cut off.
func TestCopyCutOff(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		key := s.v.packKey(ownOrAny(t, s.v))
		inner := s.from
		s.from = &cutting{Store: inner, key: key}
		r, err := Copy(t.Context(), s.from, s.to, s.options(keyed))
		if err != nil || len(r.Failed) == 0 || !strings.Contains(r.Failed[0].Reason+r.Failed[len(r.Failed)-1].Reason, "cut off") {
			t.Errorf("copy through a proxy that truncates: %+v, %v", r, err)
		}
		if _, err := s.to.Stat(t.Context(), key); !errors.Is(err, obs.ErrNotFound) {
			t.Errorf("the pack that was cut off: %v", err)
		}
		s.from = inner
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != 2 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

func ownOrAny(t *testing.T, v *Vault) PackID {
	t.Helper()
	all, err := v.packRefs(t.Context())
	if err != nil || len(all) == 0 {
		t.Fatalf("%d packs, %v", len(all), err)
	}
	return all[0].ID
}

// cutting is a store behind a proxy that gives the first half of an object only.
type cutting struct {
	obs.Store
	key string
}

func (c *cutting) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if key != c.key {
		return c.Store.ReadAt(ctx, key, p, off)
	}
	n, err := c.Store.ReadAt(ctx, key, p[:len(p)/2], off)
	if err != nil {
		return n, err
	}
	return n, io.EOF
}

// TestCopyToAFullDisk: the copy ends, and goes on when there is room.
func TestCopyToAFullDisk(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 4)
		full := obstest.NewFaulty(s.to)
		full.Inject(obstest.Fault{Op: obstest.Put, Nth: 4, Err: obs.ErrDiskFull})
		if _, err := Copy(t.Context(), s.from, full, s.options(keyed)); !errors.Is(err, obs.ErrNoSpace) {
			t.Fatalf("copy to a full disk: %v", err)
		}
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, s.to); got != 4 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

// TestCopyThroughChaos: calls fail by chance on both sides, and copies are repeated until one ends.
func TestCopyThroughChaos(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 4)
		policy := obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 3, Rand: func() float64 { return 0 }}
		odds := obstest.Odds{Before: 0.1, After: 0.1, Short: 0.1, Hard: 0.02}
		from, to := obstest.NewChaos(s.from, 1, odds), obstest.NewChaos(s.to, 2, odds)
		for try := 0; ; try++ {
			if try == 30 { // nothing stays away for so long
				from.Set(obstest.Odds{})
				to.Set(obstest.Odds{})
			}
			r, err := Copy(t.Context(), obs.Retry(from, policy), obs.Retry(to, policy), s.options(keyed))
			s.sound(t, s.to)
			if err == nil && r.Whole() {
				break
			}
			if try > 30 {
				t.Fatalf("copy without faults: %+v, %v", r, err)
			}
		}
		if got := s.sound(t, s.to); got != 4 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

// TestCopyPutsBack: packs that vanish from the destination during a copy are put again.
func TestCopyPutsBack(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 4)
		inner := s.to
		s.to = &afterList{Store: inner, prefix: s.v.info.ID + "/condemned/", times: 2, do: func() {
			all, err := s.v.in(inner).packRefs(t.Context())
			if err == nil && len(all) > 0 {
				err = inner.Delete(t.Context(), s.v.packKey(all[0].ID))
			}
			if err != nil {
				t.Error(err)
			}
		}}
		s.mustCopy(t, s.options(keyed))
		if got := s.sound(t, inner); got != 4 {
			t.Errorf("the copy has %d backups", got)
		}
		// A collector that did not end keeps the copy from putting packs that would go with it.
		if err := inner.Put(t.Context(), s.v.condemnedPrefix()+strings.Repeat("0", 32), []byte("x")); err != nil {
			t.Fatal(err)
		}
		backupOf(t, s.v, "i0", 9, 700, 720)
		if _, err := Copy(t.Context(), s.from, inner, s.options(keyed)); !errors.Is(err, ErrCollected) {
			t.Errorf("copy beside a collector: %v", err)
		}
		if refs, err := s.v.in(inner).Backups(t.Context(), ""); err != nil || len(refs) != 4 {
			t.Errorf("the copy has %d backups, %v", len(refs), err)
		}
	})
}

// TestCopyWithLocks: the packs of a locked copy stay
// locked as long as each manifest that names them.
func TestCopyWithLocks(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		s.to = obs.NewLockedMemory(time.Hour, Retention)
		s.mustCopy(t, s.options(keyed))
		ext := &extended{Store: s.to}
		s.to = ext
		// All packs look as if their locks were about to end.
		backupOf(t, s.v, "i0", 2, 0, 60)
		s.mustCopy(t, s.options(keyed))
		if len(ext.keys) == 0 {
			t.Error("no lock was prolonged")
		}
		if got := s.sound(t, ext.Store); got != 3 {
			t.Errorf("the copy has %d backups", got)
		}
	})
}

// extended is a locked store whose locks seem to end
// now, and which notes the locks that are prolonged.
type extended struct {
	obs.Store
	mu   sync.Mutex
	keys []string
}

func (e *extended) Stat(ctx context.Context, key string) (obs.Info, error) {
	in, err := e.Store.Stat(ctx, key)
	in.RetainUntil = time.Now()
	return in, err
}

func (e *extended) Extend(ctx context.Context, key string, until time.Time) error {
	e.mu.Lock()
	e.keys = append(e.keys, key)
	e.mu.Unlock()
	return e.Store.Extend(ctx, key, until)
}

// TestCopyVerify: a byte that differs is found, and with the key also on which side.
func TestCopyVerify(t *testing.T) {
	bothWays(t, func(t *testing.T, keyed bool) {
		s := newCopySides(t, 2)
		o := s.options(keyed)
		o.Verify = true
		r := s.mustCopy(t, o)
		if want := r.Packs.Source + r.Index.Source + r.Backups.Source; r.Verified != want {
			t.Errorf("compared %d objects, want %d", r.Verified, want)
		}
		key := s.v.packKey(ownOrAny(t, s.v))
		for _, side := range []struct {
			name string
			st   *obs.Store
		}{{"source", &s.from}, {"destination", &s.to}} {
			inner := *side.st
			faulty := obstest.NewFaulty(inner)
			faulty.Inject(obstest.Fault{Op: obstest.Read, Key: func(k string) bool { return k == key }, Corrupt: func(p []byte, _ int64) { p[20] ^= 1 }})
			*side.st = faulty
			r, err := Copy(t.Context(), s.from, s.to, o)
			*side.st = inner
			if err != nil || len(r.Failed) != 1 || r.Failed[0].Object != key {
				t.Fatalf("damage in the %s: %+v, %v", side.name, r, err)
			}
			if keyed && !strings.Contains(r.Failed[0].Reason, "damaged in the "+side.name) {
				t.Errorf("damage in the %s: %s", side.name, r.Failed[0].Reason)
			}
		}
		// An object of another size is never written over.
		if err := s.to.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if err := s.to.Put(t.Context(), key, []byte("another")); err != nil {
			t.Fatal(err)
		}
		r, err := Copy(t.Context(), s.from, s.to, s.options(keyed))
		if err != nil || len(r.Failed) != 1 {
			t.Errorf("copy over another object: %+v, %v", r, err)
		}
		if in, err := s.to.Stat(t.Context(), key); err != nil || in.Size != 7 {
			t.Errorf("the other object: %+v, %v", in, err)
		}
	})
}

// TestCopyInstance: the backups of one instance and nothing else.
func TestCopyInstance(t *testing.T) {
	s := newCopySides(t, 6)
	backupOf(t, s.v, "other", 1, 500, 560)
	o := s.options(true)
	o.Instance = "i1"
	s.mustCopy(t, o)
	if got := s.sound(t, s.to); got != 3 {
		t.Errorf("the copy has %d backups, want 3", got)
	}
	all, err := s.v.packRefs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	some, err := s.v.in(s.to).packRefs(t.Context())
	if err != nil || len(some) == 0 || len(some) >= len(all) {
		t.Errorf("the copy has %d packs of %d, %v", len(some), len(all), err)
	}
	o.Instance = "nobody"
	if _, err := Copy(t.Context(), s.from, s.to, o); !errors.Is(err, ErrNoBackup) {
		t.Errorf("copy of an instance without backups: %v", err)
	}
	// A copy of all afterwards brings the rest.
	s.mustCopy(t, s.options(false))
	if got := s.sound(t, s.to); got != 7 {
		t.Errorf("the copy has %d backups, want 7", got)
	}
}

func TestNewestFirst(t *testing.T) {
	var refs []BackupRef
	for _, name := range []string{"a/1", "a/2", "a/3", "b/7", "b/8"} {
		inst, seq, _ := strings.Cut(name, "/")
		refs = append(refs, BackupRef{Instance: inst, Seq: uint64(seq[0] - '0')})
	}
	var got []string
	for _, group := range newestFirst(refs) {
		var names []string
		for _, r := range group {
			names = append(names, fmt.Sprintf("%s%d", r.Instance, r.Seq))
		}
		slices.Sort(names)
		got = append(got, strings.Join(names, "+"))
	}
	if want := []string{"a3+b8", "a2+b7", "a1"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}
