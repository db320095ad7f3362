package backup_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// TestPrecopyLeavesLittleForTheEnd: rounds make no backup, and the
// last one reads and sends only what changed since.
func TestPrecopyLeavesLittleForTheEnd(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	want := makeTree(t, dir, 21, 60, 3)
	long := time.Now().Add(-time.Hour)
	o := backup.Options{
		Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, CatalogueDir: t.TempDir(),
		Precopy: true, Now: inAnHour,
	}
	first, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.BackupID != "" || first.BytesRead == 0 || first.BytesSent == 0 {
		t.Errorf("first round: %+v", first)
	}
	if refs, err := v.Backups(t.Context(), ""); err != nil || len(refs) != 0 {
		t.Fatalf("backups after a round: %v, %v", refs, err)
	}

	changed := []byte("written after the round")
	if err := os.WriteFile(filepath.Join(dir, "changed"), changed, 0o600); err != nil {
		t.Fatal(err)
	}
	want["changed"] = changed
	o.Precopy = false
	last, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if last.BytesRead != uint64(len(changed)) || last.BytesSent > first.BytesSent/10 {
		t.Errorf("the last read %d and sent %d bytes, the round %d and %d", last.BytesRead, last.BytesSent, first.BytesRead, first.BytesSent)
	}
	compare(t, contents(t, v, vault.BackupRef{Instance: "i", ID: last.BackupID}), want)

	// A snapshot whose making began an hour ago: what changed since then may be in it, or not.
	o.Sources[0].Taken = long
	if _, err := backup.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	again, err := backup.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.BytesRead < first.BytesRead {
		t.Errorf("%d bytes were read, though all files are younger than the snapshot", again.BytesRead)
	}
}

// TestRoundReadsAFileWithHoles: the workers of a round are bound to
// their threads, and take the ranges of a file in turn.
func TestRoundReadsAFileWithHoles(t *testing.T) {
	v := newVault(t, obs.NewMemory())
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 3<<20)
	const parts = 12
	for i := range parts {
		rand.NewChaCha8([32]byte{byte(i)}).Read(part) // never fails
		if _, err := f.WriteAt(part, int64(i)*8<<20); err != nil {
			t.Fatal(err)
		}
	}
	o := backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{{Volume: "data", Root: dir}}, Precopy: true, Workers: 4}
	if res, err := backup.Run(t.Context(), o); err != nil || res.BytesRead != parts*3<<20 {
		t.Errorf("%+v, %v", res, err)
	}
}
