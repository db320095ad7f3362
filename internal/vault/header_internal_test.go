package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"holdfast/internal/obs"
)

// TestVaultWithoutTheNameKey: an attacker with the bucket and the recipients,
// but without the fleet's name key, wraps a vault key of their own and puts
// it where the fleet looks. A host must not store anything under it.
func TestVaultWithoutTheNameKey(t *testing.T) {
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	st, nameKey := obs.NewMemory(), []byte("a secret of the fleet")
	vid := ID("tenant", nameKey)
	for _, proof := range [][]byte{proofOf(nil, vid), proofOf([]byte("a guess"), vid), make([]byte, 32)} {
		h := header{Format: Format, ID: vid, Generation: 1, Created: time.Now(), Params: DefaultParams(), Recipients: id.recipients()}
		doc, err := sealHeader(h, secret{Key: bytes.Repeat([]byte{7}, 32), Name: "tenant", Proof: proof})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.Delete(t.Context(), firstHeaderKey(vid)), st.Put(t.Context(), firstHeaderKey(vid), doc)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), st, "tenant", nameKey, id); !errors.Is(err, ErrCorrupt) {
			t.Errorf("opened, or another error: %v", err)
		}
	}
}

// TestNameKeyDoesNotTravel: a recipient of one tenant's vault must
// not learn the secret that leads to the others'.
func TestNameKeyDoesNotTravel(t *testing.T) {
	id, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	st, nameKey := obs.NewMemory(), []byte("a secret of the fleet")
	v, err := Create(t.Context(), st, "tenant", nameKey, nil, id)
	if err != nil {
		t.Fatal(err)
	}
	_, _, s, err := newestHeader(t.Context(), st, v.info.ID, id)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(plain, nameKey) || bytes.Equal(s.Proof, proofOf(nameKey, ID("another", nameKey))) {
		t.Error("the wrapped secret holds the name key, or the proof for another vault")
	}
	s.clear()
	if !bytes.Equal(s.Key, make([]byte, 32)) {
		t.Error("the vault's key is not cleared")
	}
}

// FuzzHeader opens header objects that the bucket's owner wrote.
func FuzzHeader(f *testing.F) {
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		f.Fatal(err)
	}
	vid := ID("fuzz", nil)
	h := header{Format: Format, ID: vid, Generation: 1, Created: time.Unix(1700000000, 0).UTC(), Params: DefaultParams(), Recipients: id.recipients()}
	doc, err := sealHeader(h, secret{Key: make([]byte, 32), Name: "fuzz", Proof: proofOf(nil, vid)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add(bytes.Replace(doc, []byte(`"format":1`), []byte(`"format":2`), 1))
	f.Add(bytes.Replace(doc, []byte(`"avg":65536`), []byte(`"avg":-1`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, s, err := openHeader(headerRef{key: "k", generation: 1}, vid, b, id)
		if err == nil && (h.Params.check() != nil || len(s.Key) != 32 || h.ID != vid) {
			t.Fatalf("opened %+v", h)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrWrongKey) {
			t.Fatalf("error of no class: %v", err)
		}
	})
}

// fuzzIdentity is for inputs that must open again; it protects nothing.
const fuzzIdentity = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n"

// FuzzSecret decodes the plaintext of a wrapped key: any recipient may have written it.
func FuzzSecret(f *testing.F) {
	b, err := json.Marshal(secret{Key: make([]byte, 32), Name: "n", Proof: make([]byte, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"key":"AA==","name":"n"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSecret(b)
		if err == nil && (len(s.Key) != 32 || len(s.Proof) != 32 || s.Name == "") {
			t.Fatalf("took %+v", s)
		}
	})
}
