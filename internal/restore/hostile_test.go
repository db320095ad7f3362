package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// TestHostileBucket restores from a bucket whose owner puts other content under the
// names of objects: content of another tenant, another instance or another date, or the
// right content cut short or followed by more. Each restore fails, and leaves nothing.
func TestHostileBucket(t *testing.T) {
	st := obs.NewMemory()
	id, err := vault.GenerateIdentity()
	must(t, err)
	// made is a backup with its objects. The host, and so the
	// identity, is the same for both tenants.
	type made struct {
		v     *vault.Vault
		ref   vault.BackupRef
		packs []string
		key   string // of the manifest
	}
	n := 0
	store := func(v *vault.Vault, instance string) made {
		n++
		src := t.TempDir()
		must(t, os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte(fmt.Sprintf("%s %d\n", instance, n)), 5000), 0o600))
		before := map[string]bool{}
		for i, err := range st.List(t.Context(), "") {
			must(t, err)
			before[i.Key] = true
		}
		res, err := backup.Run(t.Context(), backup.Options{
			Vault: v, Instance: instance, Host: "h", Agent: "test", Sources: []backup.Source{{Volume: "v", Root: src}},
		})
		must(t, err)
		m := made{v: v}
		m.ref, err = v.Find(t.Context(), instance, res.BackupID)
		must(t, err)
		manifest, err := v.Manifest(t.Context(), m.ref)
		must(t, err)
		m.key = manifest.Object
		for i, err := range st.List(t.Context(), "") {
			must(t, err)
			if !before[i.Key] && strings.Contains(i.Key, "/packs/") {
				m.packs = append(m.packs, i.Key)
			}
		}
		if len(m.packs) == 0 {
			t.Fatal("a backup without a pack")
		}
		return m
	}
	open := func(tenant string) *vault.Vault {
		v, err := vault.Create(t.Context(), st, tenant, nil, nil, id)
		must(t, err)
		t.Cleanup(v.Close)
		return v
	}
	a, b := open("a"), open("b")
	mine := store(a, "i")
	others := map[string]made{"another tenant": store(b, "i"), "another instance": store(a, "j"), "another date": store(a, "i")}
	harm := func(what, key string, content []byte) {
		t.Helper()
		good := read(t, st, key)
		if bytes.Equal(good, content) {
			t.Fatalf("%s: changes nothing", what)
		}
		rewrite(t, st, key, func([]byte) []byte { return content })
		defer rewrite(t, st, key, func([]byte) []byte { return good })
		dest := filepath.Join(t.TempDir(), "dest")
		_, err := restore.Run(t.Context(), restore.Options{Vault: mine.v, Ref: mine.ref, Dest: dest})
		if err == nil {
			t.Errorf("%s: it was restored", what)
		}
		if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 0 {
			t.Errorf("%s: it left %v", what, left)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\x00") {
			t.Errorf("%s: raw bytes in %q", what, err)
		}
	}
	for whose, other := range others {
		harm("manifest of "+whose, mine.key, read(t, st, other.key))
		for _, p := range mine.packs {
			harm("pack of "+whose, p, read(t, st, other.packs[0]))
		}
	}
	for what, keys := range map[string][]string{"manifest": {mine.key}, "pack": mine.packs} {
		for _, key := range keys {
			good := read(t, st, key)
			for _, n := range []int{0, 1, len(good) / 3, len(good) - 1} {
				if what == "pack" && n == len(good)-1 {
					// the end is the pack's table: chunks are found by the
					// recipe, which names where they are
					continue
				}
				harm(fmt.Sprintf("%s cut to %d bytes", what, n), key, bytes.Clone(good[:n]))
			}
			// the content of a pack is found by its recipe, and what follows is not read
			if what == "manifest" {
				harm("manifest followed by more", key, append(bytes.Clone(good), 0))
				harm("manifest of 200 MiB", key, append(bytes.Clone(good), make([]byte, 200<<20)...))
			}
		}
	}
	dest := filepath.Join(t.TempDir(), "dest")
	_, err = restore.Run(t.Context(), restore.Options{Vault: mine.v, Ref: mine.ref, Dest: dest})
	must(t, err)
}
