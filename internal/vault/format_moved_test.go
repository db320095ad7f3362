package vault_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// moveAll lets a prune move all chunks of the vault into new packs.
func moveAll(t *testing.T, st obs.Store, id *vault.Identity, nameKey []byte) {
	t.Helper()
	v, err := vault.Open(t.Context(), st, "tenant", nameKey, id)
	must(t, err)
	for _, key := range keys(t, st) { // the session is of this process
		if strings.Contains(key, "/sessions/") {
			must(t, st.Delete(t.Context(), key))
		}
	}
	before := len(keys(t, st))
	r, err := v.Prune(t.Context(), vault.PruneOptions{Host: "host", Sparse: 100, Wait: 1, Poll: 1})
	must(t, err)
	if r.Moved == 0 || r.Moved != r.Sparse || len(keys(t, st)) == before {
		t.Fatalf("moved: %+v", r)
	}
}

// moved reads a relocation: its chunks can be read under their old places too.
func (f *formatReader) moved(name string, b []byte) {
	m := f.small("HFMOVE\x00\x01", "moved", name, b).(map[uint64]any)
	old, err := hex.DecodeString(name[:32])
	must(f.t, err)
	packs := m[2].([]any)
	u := binary.LittleEndian.Uint32
	for rows := bytesOf(m[3]); len(rows) > 0; rows = rows[17:] {
		to := string(packs[u(rows[9:])].([]any)[0].([]byte))
		off, size, kind := u(rows), u(rows[4:]), rows[8]
		for key, plain := range f.chunks {
			if strings.HasPrefix(key, fmt.Sprint(kind, to, u(rows[13:]), size, " ")) {
				f.chunks[fmt.Sprint(kind, string(old), off, size, uint32(len(plain)))] = plain
				break
			}
		}
	}
}
