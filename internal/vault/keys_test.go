package vault_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// headers returns the names of a vault's header objects.
func headers(t testing.TB, st obs.Store, vid string) (out []string) {
	t.Helper()
	for _, k := range keys(t, st) {
		if rest, ok := strings.CutPrefix(k, vid+"/"); ok && strings.HasPrefix(rest, "vault") {
			out = append(out, rest)
		}
	}
	return out
}

func TestRekey(t *testing.T) {
	st := obs.NewMemory()
	host, next, recovery := identity(t), identity(t), identity(t)
	nameKey := []byte("a secret of the fleet")
	v, err := vault.Create(t.Context(), st, "tenant", nameKey, []string{recovery.Recipient()}, host)
	must(t, err)
	name := v.Namer().Name([]byte("x"))
	opens := func(id *vault.Identity) error {
		t.Helper()
		o, err := vault.Open(t.Context(), st, "tenant", nameKey, id)
		if err == nil && o.Namer().Name([]byte("x")) != name {
			t.Error("the vault's key is another")
		}
		return err
	}

	info, err := v.Rekey(t.Context(), host, vault.Change{Add: []string{next.Recipient(), next.Recipient()}})
	must(t, err)
	if info.Generation != 2 || len(info.Recipients) != 3 {
		t.Errorf("after adding: %+v", info)
	}
	must(t, errors.Join(opens(host), opens(next), opens(recovery)))
	info, err = v.Rekey(t.Context(), next, vault.Change{Remove: []string{host.Recipient()}})
	must(t, err)
	if info.Generation != 3 || slices.Contains(info.Recipients, host.Recipient()) {
		t.Errorf("after removing: %+v", info)
	}
	if err := opens(host); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("the key that was removed: %v", err)
	}
	must(t, errors.Join(opens(next), opens(recovery)))
	if h := headers(t, st, v.Info().ID); len(h) != 1 || !strings.HasPrefix(h[0], "vault-00000003-") {
		t.Errorf("headers that are left: %q", h)
	}
	// A vault that is open goes on, and a second one of the name is not made.
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	_, err = w.Finish(t.Context())
	must(t, err)
	if _, err := vault.Create(t.Context(), st, "tenant", nameKey, nil, host); !errors.Is(err, vault.ErrVaultExists) {
		t.Errorf("create over a rekeyed vault: %v", err)
	}

	for name, c := range map[string]struct {
		change vault.Change
		want   string
	}{
		"stranger":  {vault.Change{Remove: []string{host.Recipient()}}, "is none of the vault's"},
		"both":      {vault.Change{Add: []string{recovery.Recipient()}, Remove: []string{recovery.Recipient()}}, "added and removed"},
		"last":      {vault.Change{Remove: []string{next.Recipient(), recovery.Recipient()}, LockOut: true}, "no recipient left"},
		"myself":    {vault.Change{Remove: []string{next.Recipient()}}, "would no longer open"},
		"no sense":  {vault.Change{Add: []string{"age1nonsense"}}, "no age recipient"},
		"wrong key": {vault.Change{}, ""},
	} {
		id := next
		if name == "wrong key" {
			id, c.want = host, vault.ErrWrongKey.Error()
		}
		if _, err := v.Rekey(t.Context(), id, c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = v.Rekey(t.Context(), next, vault.Change{Remove: []string{next.Recipient()}, LockOut: true})
	must(t, err)
	if err := opens(next); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("locked out at its own wish: %v", err)
	}
	must(t, opens(recovery))
}

// TestRekeyThatCrashed stops Rekey at each of its requests: the vault always
// opens for those who keep their place, and the next Rekey leaves one header.
func TestRekeyThatCrashed(t *testing.T) {
	for stop := 1; ; stop++ {
		st := &breaking{Store: obs.NewMemory(), left: -1}
		host, recovery := identity(t), identity(t)
		v, err := vault.Create(t.Context(), st, "tenant", nil, []string{recovery.Recipient()}, host)
		must(t, err)
		st.left = stop
		_, err = v.Rekey(t.Context(), host, vault.Change{Remove: []string{recovery.Recipient()}})
		st.left = -1
		if _, oerr := vault.Open(t.Context(), st, "tenant", nil, host); oerr != nil {
			t.Fatalf("after %d requests (%v) the vault does not open: %v", stop, err, oerr)
		}
		_, rerr := v.Rekey(t.Context(), host, vault.Change{})
		must(t, rerr)
		if h := headers(t, st, v.Info().ID); len(h) != 1 {
			t.Errorf("after %d requests and another rekey: headers %q", stop, h)
		}
		if err == nil {
			if stop <= 4 {
				t.Errorf("a rekey of %d requests", stop)
			}
			return
		}
	}
}

// TestRekeysAtTheSameMoment: of changes that were reported as made none is lost.
func TestRekeysAtTheSameMoment(t *testing.T) {
	for range 20 {
		st := obs.NewMemory()
		host := identity(t)
		v, err := vault.Create(t.Context(), st, "tenant", nil, nil, host)
		must(t, err)
		const n = 4
		var made [n]string
		var wg sync.WaitGroup
		for i := range n {
			id := identity(t)
			wg.Go(func() {
				_, err := v.Rekey(t.Context(), host, vault.Change{Add: []string{id.Recipient()}})
				switch {
				case err == nil:
					made[i] = id.Recipient()
				case !errors.Is(err, vault.ErrRekeyed) && !errors.Is(err, vault.ErrCorrupt) && !errors.Is(err, obs.ErrNotFound):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		o, err := vault.Open(t.Context(), st, "tenant", nil, host)
		must(t, err)
		for _, r := range made {
			if r != "" && !slices.Contains(o.Info().Recipients, r) {
				t.Error("a change that was reported as made is lost")
			}
		}
	}
}

// TestOldHeader: a bucket's owner who gives an old header a newer name is found out.
func TestOldHeader(t *testing.T) {
	st := obs.NewMemory()
	host, gone := identity(t), identity(t)
	v, err := vault.Create(t.Context(), st, "tenant", nil, []string{gone.Recipient()}, host)
	must(t, err)
	vid := v.Info().ID
	old := read(t, st, vid+"/vault.json")
	_, err = v.Rekey(t.Context(), host, vault.Change{Remove: []string{gone.Recipient()}})
	must(t, err)
	must(t, st.Put(t.Context(), vid+"/vault.json", old))
	if _, err := vault.Open(t.Context(), st, "tenant", nil, gone); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("an old header beside the new one: %v", err)
	}
	must(t, st.Put(t.Context(), vid+"/vault-00000009-0123456789abcdef.json", old))
	if _, err := vault.Open(t.Context(), st, "tenant", nil, gone); !errors.Is(err, vault.ErrCorrupt) {
		t.Errorf("an old header under a newer name: %v", err)
	}
}

// TestFindWithoutTheNameKey: the bucket and a recovery key are
// enough to find the vaults and to open them.
func TestFindWithoutTheNameKey(t *testing.T) {
	st := obs.NewMemory()
	host, recovery, stranger := identity(t), identity(t), identity(t)
	nameKey := []byte("a secret of the fleet")
	var ids []string
	for _, name := range []string{"one", "two", "three"} {
		v, err := vault.Create(t.Context(), st, name, nameKey, []string{recovery.Recipient()}, host)
		must(t, err)
		ids = append(ids, v.Info().ID)
	}
	other, err := vault.Create(t.Context(), st, "four", nil, nil, stranger)
	must(t, err)
	// never finished
	must(t, st.Put(t.Context(), "vaults/"+strings.Repeat("0", 32), []byte("HFVAULT\n")))
	must(t, st.Put(t.Context(), "vaults/readme", []byte("not ours")))

	found, err := vault.List(t.Context(), st, recovery)
	must(t, err)
	if len(found) != 4 {
		t.Fatalf("found %+v", found)
	}
	for _, f := range found {
		if f.ID == other.Info().ID {
			if !errors.Is(f.Err, vault.ErrWrongKey) {
				t.Errorf("another's vault: %+v", f)
			}
		} else if f.Err != nil || !slices.Contains(ids, f.ID) || len(f.Info.Recipients) != 2 {
			t.Errorf("found %+v", f)
		}
	}
	v, err := vault.Search(t.Context(), st, "two", recovery)
	must(t, err)
	if v.Info().ID != ids[1] || v.Info().Name != "two" {
		t.Errorf("searched two, found %+v", v.Info())
	}
	if v, err = vault.Search(t.Context(), st, ids[2], recovery); err != nil || v.Info().Name != "three" {
		t.Errorf("by its id: %v, %v", v, err)
	}
	if _, err := vault.Search(t.Context(), st, "four", recovery); !errors.Is(err, vault.ErrNoVault) {
		t.Errorf("another's vault: %v", err)
	}
	_, err = vault.Create(t.Context(), st, "two", []byte("another fleet"), nil, recovery)
	must(t, err)
	if _, err := vault.Search(t.Context(), st, "two", recovery); err == nil || !strings.Contains(err.Error(), ids[1]) {
		t.Errorf("two vaults of one name: %v", err)
	}
}

// breaking is a Store whose requests fail once left of them were made; below 0 it never does.
type breaking struct {
	obs.Store
	left int
}

var errBroken = errors.New("the process died here")

func (b *breaking) spend() error {
	if b.left == 0 {
		return errBroken
	}
	b.left--
	return nil
}

func (b *breaking) Put(ctx context.Context, key string, body []byte) error {
	if err := b.spend(); err != nil {
		return err
	}
	return b.Store.Put(ctx, key, body)
}

func (b *breaking) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := b.spend(); err != nil {
		return 0, err
	}
	return b.Store.ReadAt(ctx, key, p, off)
}

func (b *breaking) Delete(ctx context.Context, keys ...string) error {
	if err := b.spend(); err != nil {
		return err
	}
	return b.Store.Delete(ctx, keys...)
}
