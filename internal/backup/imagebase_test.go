package backup_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/obs"
	"holdfast/internal/snapshot"
	"holdfast/internal/testbed"
	"holdfast/internal/vault"
)

// imageContent reads the image of a backup through its recipe.
func imageContent(t *testing.T, v *vault.Vault, id string, size int) []byte {
	t.Helper()
	m, err := v.Manifest(t.Context(), vault.BackupRef{Instance: "i", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	err = v.Items(t.Context(), &m.Volumes[0], func(items []vault.Item) error {
		for _, it := range items {
			for _, x := range it.Extents {
				b, err := v.ReadChunk(t.Context(), vault.Content, x.Chunk)
				if err != nil {
					return err
				}
				copy(got[x.Off:], b[x.In:x.In+x.Len])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// imageLiar says that nothing of an image changed.
type imageLiar struct{ backup.Changes }

func (imageLiar) Image() ([]snapshot.Range, bool) { return nil, true }

// TestImagesReadWhatDiffersFromTheBase: thirty backups of an image on xfs, each by the clone that the one before left, read little
// more than what changed and hold every byte; a base that says that nothing changed is found out.
func TestImagesReadWhatDiffersFromTheBase(t *testing.T) {
	testbed.Need(t, "xfs")
	const size = 32 << 20
	path := filepath.Join(testbed.Xfs(t), "image")
	rnd := rand.NewChaCha8([32]byte{4})
	r := rand.New(rnd)
	content := make([]byte, size)
	_, _ = rnd.Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := snapshot.ByName(snapshot.NameReflink)
	if err != nil {
		t.Fatal(err)
	}
	v, on := newVault(t, obs.NewMemory()), backup.NewHost(backup.HostOptions{})
	var base *snapshot.Snapshot
	var cat string
	back := func(name string, lie bool) *backup.Result {
		t.Helper()
		snap, err := p.Create(t.Context(), snapshot.Request{Volume: path, Host: "h", Job: name, Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		s := backup.Source{Volume: "data", Root: snap.Image}
		if base != nil {
			c, err := p.Changed(t.Context(), base.Ref, snap)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s.Base = &backup.Base{Catalogue: cat, Changes: c}
			if lie {
				s.Base.Changes = imageLiar{c}
			}
		}
		res, err := backup.Run(t.Context(), backup.Options{Vault: v, Instance: "i", Sources: []backup.Source{s}, On: on})
		if err != nil {
			t.Fatal(err)
		}
		if base != nil {
			if err := p.Remove(t.Context(), base.Ref); err != nil {
				t.Fatal(err)
			}
		}
		base, cat = snap, res.Catalogues["data"]
		if !bytes.Equal(imageContent(t, v, res.BackupID, size), content) {
			t.Fatalf("backup %s differs from the image", name)
		}
		return res
	}
	change := func(off int64, n int) {
		t.Helper()
		_, _ = rnd.Read(content[off : off+int64(n)])
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content[off:off+int64(n)], off); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	back("first", false)
	for round := range 30 {
		const piece = 512 << 10
		change(r.Int64N(size-piece), piece)
		res := back("r"+strconv.Itoa(round), false)
		if res.BytesRead > piece*3/2 {
			t.Errorf("round %d: %d bytes read for %d that changed", round, res.BytesRead, piece)
		}
		if res.Checked == 0 {
			t.Errorf("round %d: nothing was checked", round)
		}
	}
	change(0, size)
	res := back("lie", true)
	if len(res.Drifts) != 1 || res.Drifts[0].By != backup.ByBase || res.BytesRead != size {
		t.Errorf("drifts %v, %d bytes read", res.Drifts, res.BytesRead)
	}
	// A base of a backup that is not known is not looked at.
	change(1<<20, 1000)
	cat = "unknown"
	if res := back("unknown", false); res.BytesRead != size {
		t.Errorf("%d bytes read by a base of an unknown backup", res.BytesRead)
	}
	if err := p.Remove(t.Context(), base.Ref); err != nil {
		t.Fatal(err)
	}
}
