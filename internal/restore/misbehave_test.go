package restore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/obs/proxytest"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// TestMisbehaviours backs up to, and restores from, every server of the catalogue, which misbehaves
// from its first request on, or from a later one. No run panics or goes on without end, a backup
// that succeeds restores exactly from the sound server, a restore that succeeds is exact, a restore
// that fails leaves nothing, and no object that earlier backups need is changed or deleted.
func TestMisbehaviours(t *testing.T) {
	base := newMisled(t)
	sound := proxytest.Misbehaviour{Works: true}
	first := base.copied(t, sound, 1<<30)
	first.backup()
	backupRequests := first.requests.Load()
	first.restore()
	restoreRequests := first.requests.Load()
	if backupRequests < 10 || restoreRequests < 5 {
		t.Fatalf("a backup makes %d requests, a restore %d", backupRequests, restoreRequests)
	}
	for _, m := range proxytest.Misbehaviours() {
		t.Run(m.Name(), func(t *testing.T) {
			t.Parallel() // most of the time is the client library's wait after a failure
			for third := range int64(3) {
				tr := base.copied(t, m, backupRequests*third/3)
				tr.backup()
				tr.soundly = restoreRequests * third / 3
				tr.restore()
			}
		})
	}
}

// misled is a vault with backups of a tree that has changed since,
// in a bucket behind a server that begins to misbehave.
type misled struct {
	t       *testing.T
	m       proxytest.Misbehaviour
	soundly int64 // how many requests of a run are answered before the server misbehaves
	b       *proxytest.Bucket
	id      *vault.Identity
	src     string // the tree, which all trials share
	dir     string

	requests atomic.Int64 // of the last run
}

// newMisled makes a vault with five backups, and changes the tree.
func newMisled(t *testing.T) *misled {
	t.Helper()
	tr := &misled{t: t, b: proxytest.NewBucket(), src: t.TempDir(), dir: t.TempDir()}
	id, err := vault.GenerateIdentity()
	must(t, err)
	tr.id = id
	v, err := vault.Create(t.Context(), tr.store(nil), "tenant", nil, nil, id)
	must(t, err)
	defer v.Close()
	write := func(name string, seed byte, size int) {
		body := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(body)
		p := filepath.Join(tr.src, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, body, 0o640))
	}
	for i := range 5 {
		write(fmt.Sprintf("d%d/f", i), byte(i), 40_000)
		_, err := backup.Run(t.Context(), tr.options(v))
		must(t, err)
	}
	write("d1/f", 101, 50_000)
	write("new", 102, 300_000)
	return tr
}

// copied is the same vault in a bucket of its own, on a host with catalogues of its own.
func (tr *misled) copied(t *testing.T, m proxytest.Misbehaviour, soundly int64) *misled {
	t.Helper()
	c := &misled{t: t, m: m, soundly: soundly, b: proxytest.NewBucket(), id: tr.id, src: tr.src, dir: t.TempDir()}
	c.b.PageSize = 2
	for _, key := range tr.b.Keys() {
		body, _ := tr.b.Object(key)
		c.b.Set(key, body)
	}
	must(t, os.CopyFS(c.in("catalogues"), os.DirFS(tr.in("catalogues"))))
	return c
}

func (tr *misled) in(name string) string { return filepath.Join(tr.dir, name) }

// store opens a store at a server that misbehaves like m after its
// first requests; nil is the sound server.
func (tr *misled) store(m *proxytest.Misbehaviour) obs.Store {
	tr.t.Helper()
	o := obs.Options{
		Getenv: func(name string) string {
			if strings.HasSuffix(name, "_ID") || strings.HasSuffix(name, "_KEY") {
				return "somebody"
			}
			return ""
		},
		Retry: &obs.RetryPolicy{Base: 1, Cap: 1, MaxAttempts: 6, MaxElapsed: time.Minute},
	}
	var handler http.Handler = tr.b
	if m != nil {
		if m.Late {
			o.Stall = 250 * time.Millisecond
		}
		bad := handler
		if m.Fault != "" {
			bad = m.Handler(tr.b)
		}
		tr.requests.Store(0)
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tr.requests.Add(1) > tr.soundly {
				bad.ServeHTTP(w, r)
				return
			}
			tr.b.ServeHTTP(w, r)
		})
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	tr.t.Cleanup(server.Close)
	st, err := obs.Open(tr.t.Context(), "s3://"+proxytest.BucketName+"/v?region=r&endpoint="+server.URL, o)
	must(tr.t, err)
	tr.t.Cleanup(func() { _ = st.Close() })
	return st
}

// sound opens the vault at the sound server.
func (tr *misled) sound() *vault.Vault {
	tr.t.Helper()
	v, err := vault.Open(tr.t.Context(), tr.store(nil), "tenant", nil, tr.id)
	must(tr.t, err)
	tr.t.Cleanup(v.Close)
	return v
}

func (tr *misled) options(v *vault.Vault) backup.Options {
	return backup.Options{
		Vault: v, Instance: "i", Host: "h", Agent: "test", CatalogueDir: tr.in("catalogues"),
		Sources: []backup.Source{{Volume: "v", Root: tr.src}},
	}
}

// misbehaving runs f with the vault at the server that misbehaves,
// and reports whether it succeeded.
func (tr *misled) misbehaving(what string, f func(ctx context.Context, v *vault.Vault) error) bool {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), time.Minute)
	defer cancel()
	v, err := vault.Open(ctx, tr.store(&tr.m), "tenant", nil, tr.id)
	if err == nil {
		defer v.Close()
		err = f(ctx, v)
	}
	if ctx.Err() != nil {
		tr.t.Errorf("%s after %d requests: it goes on without end: %v", what, tr.soundly, err)
	}
	if err != nil && tr.m.Works {
		tr.t.Errorf("%s after %d requests: %v", what, tr.soundly, err)
	}
	return err == nil
}

// lasting are the objects that a backup never changes or deletes.
func (tr *misled) lasting() map[string][]byte {
	all := map[string][]byte{}
	for _, key := range tr.b.Keys() {
		if strings.Contains(key, "/packs/") || strings.Contains(key, "/backups/") || strings.HasSuffix(key, ".json") {
			all[key], _ = tr.b.Object(key)
		}
	}
	return all
}

func (tr *misled) backup() {
	tr.t.Helper()
	before := tr.lasting()
	var res *backup.Result
	worked := tr.misbehaving("backup", func(ctx context.Context, v *vault.Vault) (err error) {
		res, err = backup.Run(ctx, tr.options(v))
		return err
	})
	after := tr.lasting()
	for key, body := range before {
		if !bytes.Equal(after[key], body) {
			tr.t.Errorf("backup after %d requests: %s was changed or deleted", tr.soundly, key)
		}
	}
	v := tr.sound()
	if !worked { // its leftovers hinder no backup at the sound server
		var err error
		res, err = backup.Run(tr.t.Context(), tr.options(v))
		must(tr.t, err)
	}
	ref, err := v.Find(tr.t.Context(), "i", res.BackupID)
	must(tr.t, err)
	dest := filepath.Join(tr.t.TempDir(), "dest")
	_, err = restore.Run(tr.t.Context(), restore.Options{Vault: v, Ref: ref, Dest: dest})
	must(tr.t, err)
	sameFiles(tr.t, tr.src, dest)
	if report, err := v.Verify(tr.t.Context(), vault.VerifyOptions{ReadDataPercent: 100}); err != nil {
		tr.t.Errorf("verify after a backup after %d requests: %v, %+v", tr.soundly, err, report)
	}
}

func (tr *misled) restore() {
	tr.t.Helper()
	parent := tr.t.TempDir()
	dest := filepath.Join(parent, "dest")
	worked := tr.misbehaving("restore", func(ctx context.Context, v *vault.Vault) error {
		ref, err := v.Newest(ctx, "i")
		if err == nil {
			_, err = restore.Run(ctx, restore.Options{Vault: v, Ref: ref, Dest: dest})
		}
		return err
	})
	if worked {
		sameFiles(tr.t, tr.src, dest)
		return
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		tr.t.Errorf("a restore that failed after %d requests left %v, %v", tr.soundly, left, err)
	}
}

// sameFiles compares the files of two trees.
func sameFiles(t *testing.T, tree, dest string) {
	t.Helper()
	want, got := filesOf(t, tree), filesOf(t, dest)
	for name, body := range want {
		if !bytes.Equal(got[name], body) {
			t.Errorf("%s was restored to %d other bytes", name, len(got[name]))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files were restored, want %d", len(got), len(want))
	}
}

func filesOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		must(t, err)
		all[name], err = os.ReadFile(path)
		return err
	}))
	return all
}
