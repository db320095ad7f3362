package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"holdfast/internal/hostid"
	"holdfast/internal/obs"
	"holdfast/internal/seal"
	"holdfast/internal/testbed"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// TestFormat reads a vault by FORMAT.md alone and with none of this package's
// code, so that the document and the stored bytes agree. It has a BLAKE3 and a
// CBOR of its own in format_reader_test.go, and takes zstd from the program.
func TestFormat(t *testing.T) {
	testbed.Need(t, "zstd")
	for name, moves := range map[string]int{"as written": 0, "moved": 1, "moved twice": 2} {
		t.Run(name, func(t *testing.T) { testFormat(t, moves) })
	}
}

// testFormat reads a vault of which all chunks were moved into other packs so often.
func testFormat(t *testing.T, moves int) {
	st, id, nameKey := obs.NewMemory(), identity(t), []byte("the fleet's")
	want, ref := writeForFormat(t, st, id, nameKey)
	for range moves {
		moveAll(t, st, id, nameKey)
	}
	text, err := id.MarshalText()
	must(t, err)
	f := &formatReader{t: t, st: st, packs: map[string][]formatRow{}, sizes: map[string]int{}, chunks: map[string][]byte{}}
	f.header("tenant", nameKey, text)

	var rows, indexed []formatRow
	for _, key := range keys(t, st) {
		switch parts := strings.Split(key, "/"); {
		case parts[0] == "vaults":
			if key != "vaults/"+f.id || string(read(t, st, key)) != "HFVAULT\n" {
				t.Errorf("signpost %s", key)
			}
		case parts[1] == "packs":
			if parts[2] != parts[3][:2] {
				t.Errorf("pack %s is in a wrong folder", key)
			}
			rows = append(rows, f.pack(parts[3], read(t, st, key))...)
		case parts[1] == "sessions":
			s := f.small("HFSESS\x00\x01", "session", parts[2], read(t, st, key)).(map[uint64]any)
			if p := s[5].(map[uint64]any); s[1] != uint64(1) || s[2] != "host" || s[3] != "i" || len(p) != 6 || p[6] != "an identity" {
				t.Errorf("session: %v", s)
			}
		}
	}
	for _, key := range keys(t, st) {
		if parts := strings.Split(key, "/"); parts[1] == "index" {
			indexed = append(indexed, f.segment(parts[2], read(t, st, key))...)
		}
	}
	order := func(a, b formatRow) int { return bytes.Compare(a.name[:], b.name[:]) }
	for range moves {
		for _, key := range keys(t, st) {
			if parts := strings.Split(key, "/"); parts[1] == "moved" {
				f.moved(parts[2], read(t, st, key))
			}
		}
	}
	slices.SortFunc(rows, order)
	slices.SortFunc(indexed, order)
	if !slices.Equal(rows, indexed) || len(rows) < 40 {
		t.Errorf("%d rows in the packs, %d in the index, or they differ", len(rows), len(indexed))
	}

	got := f.backup("i", ref.ID)
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("entry %d:\n got %s\nwant %s", i, got[i], w)
		}
	}
}

// writeForFormat makes a backup of some of everything and returns it as formatReader.backup does.
func writeForFormat(t *testing.T, st obs.Store, id *vault.Identity, nameKey []byte) (want []string, m *vault.Manifest) {
	v, err := vault.Create(t.Context(), st, "tenant", nameKey, nil, id)
	must(t, err)
	defer v.Close()
	s, err := v.BeginSession(t.Context(), vault.SessionOptions{
		Host: "host", Instance: "i", Identity: hostid.Identity{ID: "an identity"},
	})
	must(t, err)
	w, err := v.NewWriter(t.Context(), vault.WriterOptions{})
	must(t, err)
	packs := w.NamePacks(t.Context(), nil)
	rec, err := w.NewRecipe(packs)
	must(t, err)
	rec.KeepStats = true
	comp, err := seal.NewCompressor(seal.Fastest, 256<<10)
	must(t, err)
	r := rand.NewChaCha8([32]byte{1})
	content := func(i int) []byte {
		p := make([]byte, 100+i*700)
		if i%2 == 0 {
			_, _ = r.Read(p) // never fails
		} else {
			copy(p, fmt.Sprintf("content %d", i)) // and zeros: zstd pays
		}
		return p
	}
	add := func(e tree.Entry, off int64, content []byte) {
		it := vault.Item{Entry: e}
		rest := it.Extents
		var whole []byte
		if len(content) > 0 {
			name := v.Namer().Name(content)
			m, payload := comp.Compress(content)
			stored, err := addTo(w, name, m, payload, len(content))
			must(t, err)
			// In two extents: the end of the chunk first, and then its beginning, behind a hole.
			half := uint32(len(content) / 2)
			rest = []vault.Extent{
				{Off: off, Chunk: stored.Loc, In: half, Len: uint32(len(content)) - half},
				{Off: off + 1000 + int64(len(content)) - int64(half), Chunk: stored.Loc, Len: half},
			}
			whole = append(append(append(make([]byte, off), content[half:]...), make([]byte, 1000)...), content[:half]...)
			it.Size = int64(len(whole))
		}
		it.Extents = rest
		must(t, rec.Add(it))
		want = append(want, formatEntry(it.Entry, whole))
	}
	times := func(i int) tree.Time {
		return tree.Time{Sec: 1_700_000_000 - int64(i)*int64(i), Nsec: uint32(i * 1001)}
	}
	add(tree.Entry{Kind: tree.Dir, Mode: 0o755, UID: 1, GID: 2, Mtime: tree.Time{Sec: -5, Nsec: 7}, Project: 9}, 0, nil)
	add(tree.Entry{Path: "a-device", Kind: tree.CharDevice, Mode: 0o600, Major: 10, Minor: 200}, 0, nil)
	add(tree.Entry{Path: "a-link", Kind: tree.Symlink, Mode: 0o777, Target: "to\xff"}, 0, nil)
	for i := range 1500 { // pages enough
		e := tree.Entry{
			Path: fmt.Sprintf("file-%06d", i), Kind: tree.File, Mode: 0o644, UID: 1000, GID: 1000 + uint32(i), Mtime: times(i),
			Ino: uint64(i*7 + 3), Ctime: times(i / 2),
		}
		var body []byte
		switch {
		case i%50 == 0:
			body = content(i / 50)
			e.Xattrs = []tree.Xattr{{Name: "user.x", Value: []byte{0, 255}}}
			e.Flags = tree.NoDump
		case i%50 == 1:
			e.LinkTo, e.HasLinkTo = fmt.Sprintf("file-%06d", i-1), true
		case i%50 == 2:
			e.Ino, e.Ctime = 0, tree.Time{}
		}
		add(e, int64(i), body)
	}
	vol := vault.Volume{Name: "data", Kind: "tree", Entries: uint64(len(want))}
	vol.Lists, err = rec.Finish()
	must(t, err)
	vol.Stats = rec.Stats()
	_, err = w.Finish(t.Context())
	must(t, err)
	refs, err := packs.Refs(t.Context())
	must(t, err)
	now := time.Now()
	m = &vault.Manifest{
		Instance: "i", ID: vault.NewBackupID(1, now, false), Seq: 1, Host: "host", Agent: "test", Created: now, Finished: now, Volumes: []vault.Volume{vol}, Packs: refs,
	}
	must(t, s.WriteManifest(t.Context(), m))
	return want, m // the session stays, to be read
}

// formatEntry is all that FORMAT.md says of an entry, with the digest of its content.
func formatEntry(e tree.Entry, content []byte) string {
	s := fmt.Sprintf("%q kind %d mode %o %d:%d mtime %d.%d size %d sha256 %x", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec, e.Size, sha256.Sum256(content))
	s += fmt.Sprintf(" target %q device %d:%d link %v %q flags %#x project %d", e.Target, e.Major, e.Minor, e.HasLinkTo, e.LinkTo, uint32(e.Flags), e.Project)
	for _, x := range e.Xattrs {
		s += fmt.Sprintf(" %s=%x", x.Name, x.Value)
	}
	if e.Kind == tree.File && !e.HasLinkTo {
		s += fmt.Sprintf(" inode %d changed %d.%d", e.Ino, e.Ctime.Sec, e.Ctime.Nsec)
	}
	return s
}

// formatReader reads a vault from FORMAT.md.
type formatReader struct {
	t     *testing.T
	st    obs.Store
	id    string
	key   []byte // the vault's
	packs map[string][]formatRow
	sizes map[string]int // of packs
	// chunks are the opened ones, by place.
	chunks map[string][]byte
}

type formatRow struct {
	name           [32]byte
	pack           string
	off, size, raw uint32
}

func (f *formatReader) expand(key []byte, info string) []byte {
	b, err := hkdf.Expand(sha256.New, key, info, 32)
	must(f.t, err)
	return b
}

// open opens bytes that are sealed under the key of one object.
func (f *formatReader) open(master, kind, id string, nonce uint64, sealed, data []byte) []byte {
	f.t.Helper()
	block, err := aes.NewCipher(f.expand(f.expand(f.key, "holdfast v1 "+master), "holdfast v1 "+kind+"\x00"+id))
	must(f.t, err)
	gcm, err := cipher.NewGCM(block)
	must(f.t, err)
	plain, err := gcm.Open(nil, binary.BigEndian.AppendUint64(make([]byte, 4), nonce), sealed, data)
	if err != nil {
		f.t.Fatalf("%s %x does not open at nonce %d: %v", kind, id, nonce, err)
	}
	return plain
}

func hmacOf(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// header opens the vault.
func (f *formatReader) header(name string, nameKey, identity []byte) {
	f.id = hex.EncodeToString(hmacOf(append([]byte("holdfast vault id v1\x00"), nameKey...), name)[:16])
	var doc struct {
		Vault json.RawMessage
		MAC   string
	}
	must(f.t, json.Unmarshal(read(f.t, f.st, f.id+"/vault.json"), &doc))
	var h struct {
		Format, Generation int
		ID, Key            string
		Params             struct {
			Chunk map[string]int
			Pack  int
		}
	}
	must(f.t, json.Unmarshal(doc.Vault, &h))
	ids, err := age.ParseIdentities(bytes.NewReader(identity))
	must(f.t, err)
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(h.Key)), ids...)
	must(f.t, err)
	var s struct{ Key, Name, Proof string }
	must(f.t, json.NewDecoder(r).Decode(&s))
	f.key, err = base64.StdEncoding.DecodeString(s.Key)
	must(f.t, err)
	var compact bytes.Buffer
	must(f.t, json.Compact(&compact, doc.Vault))
	if mac := hex.EncodeToString(hmacOf(f.expand(f.key, "holdfast v1 header"), compact.String())); mac != doc.MAC {
		f.t.Errorf("MAC is %s, should be %s", doc.MAC, mac)
	}
	proof := base64.StdEncoding.EncodeToString(hmacOf(append([]byte("holdfast vault proof v1\x00"), nameKey...), f.id))
	if h.Format != 1 || h.Generation != 1 || h.ID != f.id || s.Name != name || s.Proof != proof || h.Params.Pack != 16<<20 || h.Params.Chunk["avg"] != 64<<10 {
		f.t.Errorf("header: %+v, %+v", h, s)
	}
}

// pack opens all of a pack and compares each chunk with its name.
func (f *formatReader) pack(id string, b []byte) []formatRow {
	raw, err := hex.DecodeString(id)
	must(f.t, err)
	n := len(b)
	if string(b[:8]) != "HFPACK\x00\x01" || string(b[n-8:]) != "HFPKEND\x01" {
		f.t.Fatalf("pack %s begins %x and ends %x", id, b[:8], b[n-8:])
	}
	at := n - 12 - int(binary.LittleEndian.Uint32(b[n-12:]))
	table := f.open("content", "pack", string(raw), uint64(at), b[at:n-12], binary.BigEndian.AppendUint64([]byte("table"), uint64(n)))
	off := 8
	for ; len(table) > 0; table = table[41:] {
		row := formatRow{pack: string(raw), off: uint32(off), size: binary.LittleEndian.Uint32(table[33:]), raw: binary.LittleEndian.Uint32(table[37:])}
		copy(row.name[:], table)
		kind := table[32]
		method := b[off+int(row.size)-1]
		plain := f.open("content", "pack", string(raw), uint64(off), b[off:][:row.size-1], []byte{kind, method})
		if method == 1 {
			if plain[4]&4 != 0 {
				f.t.Errorf("chunk at %d of pack %s has a checksum (RFC 8878, 3.1.1.1.1.5)", off, id)
			}
			cmd := exec.Command("zstd", "-dc")
			cmd.Stdin = bytes.NewReader(plain)
			plain, err = cmd.Output()
			must(f.t, err)
		}
		key := f.expand(f.key, "holdfast v1 "+map[byte]string{1: "chunk names", 2: "page names"}[kind])
		if uint32(len(plain)) != row.raw || keyedBLAKE3(key, plain) != row.name {
			f.t.Errorf("chunk at %d of pack %s: %d bytes with another name, want %d", off, id, len(plain), row.raw)
		}
		f.chunks[fmt.Sprint(kind, row.pack, row.off, row.size, row.raw)] = plain
		f.packs[row.pack] = append(f.packs[row.pack], row)
		off += int(row.size)
	}
	f.sizes[string(raw)] = len(b)
	if off != at {
		f.t.Errorf("pack %s: chunks end at %d, table begins at %d", id, off, at)
	}
	return f.packs[string(raw)]
}

// segment reads an index segment and looks whether its fences and filter find each row.
func (f *formatReader) segment(id string, b []byte) (all []formatRow) {
	raw, err := hex.DecodeString(id)
	must(f.t, err)
	n := len(b)
	trailer := b[n-24:]
	u := func(i int) int { return int(binary.LittleEndian.Uint32(trailer[4*i:])) }
	rows, packs, replaced, lines := u(0), u(1), u(2), u(3)
	blocks := (rows + 20) / 21
	head := rows*48 + blocks*16
	if size := head + 20*packs + 16*replaced + 8*blocks + 64*lines + 16 + 24; size != n || string(trailer[16:]) != "HFINDX\x00\x01" {
		f.t.Fatalf("segment of %d bytes should have %d", n, size)
	}
	h := f.open("meta", "index", string(raw), 0, b[head:n-24], trailer)
	fences, filter := h[20*packs+16*replaced:], h[20*packs+16*replaced+8*blocks:]
	for i := range packs {
		if size := binary.LittleEndian.Uint32(h[20*i+16:]); int(size) != f.sizes[string(h[20*i:][:16])] {
			f.t.Errorf("the index says that pack %x has %d bytes", h[20*i:][:16], size)
		}
	}
	for i := range blocks {
		block := f.open("meta", "index", string(raw), uint64(i+1), b[i*1024:min((i+1)*1024, head)], nil)
		if !bytes.Equal(block[:8], fences[8*i:8*i+8]) {
			f.t.Errorf("fence %d is %x, the block begins %x", i, fences[8*i:8*i+8], block[:8])
		}
		for ; len(block) > 0; block = block[48:] {
			u := func(i int) uint32 { return binary.LittleEndian.Uint32(block[32+4*i:]) }
			row := formatRow{pack: string(h[20*u(0):][:16]), off: u(1), size: u(2), raw: u(3)}
			copy(row.name[:], block)
			if len(all) > 0 && bytes.Compare(all[len(all)-1].name[:], row.name[:]) >= 0 {
				f.t.Error("rows are not sorted")
			}
			line, _ := bits.Mul64(binary.LittleEndian.Uint64(row.name[8:]), uint64(lines))
			for p, k := binary.LittleEndian.Uint64(row.name[16:]), 0; k < 7; k++ {
				bit := p >> (9 * k) & 511
				if filter[64*line+bit/8]>>(bit%8)&1 == 0 {
					f.t.Errorf("the filter does not have %x", row.name)
				}
			}
			all = append(all, row)
		}
	}
	return all
}

// small opens a small object.
func (f *formatReader) small(magic, kind, id string, b []byte) any {
	if !bytes.HasPrefix(b, []byte(magic)) {
		f.t.Fatalf("%s begins %x", kind, b[:8])
	}
	return readCBOR(f.t, f.open("meta", kind, id, 0, b[len(magic):], b[:len(magic)]))
}

// chunk returns the meta chunk that a reference names.
func (f *formatReader) chunk(ref any) []byte {
	r := ref.([]any)
	b, ok := f.chunks[fmt.Sprint(2, string(r[0].([]byte)), r[1], r[2], r[3])]
	if !ok || len(r) != 4 {
		f.t.Fatalf("no pack has %v", ref)
	}
	return b
}

// backup returns the entries of a backup's only volume.
func (f *formatReader) backup(instance, id string) (all []string) {
	name := instance + "/" + id
	m := f.small("HFMANI\x00\x01", "manifest", name, read(f.t, f.st, f.id+"/backups/"+name)).(map[uint64]any)
	vol := m[8].([]any)[0].(map[uint64]any)
	if m[1] != uint64(1) || m[2] != instance || m[3] != id || vol[1] != "data" || vol[2] != "tree" {
		f.t.Errorf("manifest: %v", m)
	}
	named := map[string]bool{}
	for _, p := range m[9].([]any) {
		named[string(p.([]any)[0].([]byte))] = true
	}
	lists, stats := vol[3].([]any), vol[8].([]any)
	for i := range lists {
		pages := readCBOR(f.t, f.chunk(lists[i])).([]any)[0].([]any)
		statPages := readCBOR(f.t, f.chunk(stats[i])).([]any)[0].([]any)
		for j := range pages {
			all = append(all, f.page(f.chunk(pages[j]), f.chunk(statPages[j]), named)...)
		}
	}
	if uint64(len(all)) != vol[4] {
		f.t.Errorf("%d entries, the manifest says %v", len(all), vol[4])
	}
	return all
}

// page returns the entries of a page.
func (f *formatReader) page(b, stats []byte, named map[string]bool) (all []string) {
	p := readCBOR(f.t, b).([]any)
	packs, chunks := p[0].([]any), p[1].([]any)
	num := func(v any) uint64 { return v.(uint64) }
	sec := func(v any) int64 {
		if u, ok := v.(uint64); ok {
			return int64(u)
		}
		return v.(int64)
	}
	var entries []tree.Entry
	var contents [][]byte
	path := ""
	for _, item := range p[2].([]any) {
		it := item.([]any)
		path = path[:num(it[1])] + string(bytesOf(it[2]))
		e := tree.Entry{
			Path: path, Kind: tree.Kind(num(it[0])), Mode: uint32(num(it[3])), UID: uint32(num(it[4])), GID: uint32(num(it[5])),
			Mtime: tree.Time{Sec: sec(it[6]), Nsec: uint32(num(it[7]))}, Size: sec(it[8]),
		}
		var content []byte
		x, _ := it[9].([]any) // null without
		for ; len(x) > 0; x = x[4:] {
			c := chunks[num(x[1])].([]any)
			pack := string(packs[num(c[0])].([]byte))
			if !named[pack] {
				f.t.Errorf("the manifest does not name pack %x", pack)
			}
			plain := f.chunks[fmt.Sprint(1, pack, c[1], c[2], c[3])]
			content = append(append(content, make([]byte, num(x[0]))...), plain[num(x[2]):][:num(x[3])]...)
		}
		if more, ok := it[10].(map[uint64]any); ok {
			e.Target, e.LinkTo = string(bytesOf(more[1])), string(bytesOf(more[5]))
			major, _ := more[2].(uint64)
			minor, _ := more[3].(uint64)
			flags, _ := more[7].(uint64)
			project, _ := more[8].(uint64)
			e.Major, e.Minor, e.Flags, e.Project = uint32(major), uint32(minor), tree.Flags(flags), uint32(project)
			e.HasLinkTo, _ = more[6].(bool)
			attrs, _ := more[4].([]any)
			for _, a := range attrs {
				e.Xattrs = append(e.Xattrs, tree.Xattr{Name: string(bytesOf(a.([]any)[0])), Value: bytesOf(a.([]any)[1])})
			}
		}
		entries, contents = append(entries, e), append(contents, content)
	}
	f.stats(stats, entries)
	for i, e := range entries {
		all = append(all, formatEntry(e, contents[i]))
	}
	return all
}

// stats puts the rows of a stat page into the entries of its page.
func (f *formatReader) stats(b []byte, entries []tree.Entry) {
	r := bytes.NewReader(b)
	rows, err := binary.ReadUvarint(r)
	must(f.t, err)
	next := func() int64 {
		n, err := binary.ReadVarint(r)
		must(f.t, err)
		return n
	}
	var known []*tree.Entry
	ino := uint64(0)
	for i := range entries {
		if e := &entries[i]; e.Kind == tree.File && !e.HasLinkTo {
			rows--
			if e.Ino = ino + uint64(next()); e.Ino != 0 {
				ino, known = e.Ino, append(known, e)
			}
		}
	}
	s, ns := int64(0), int64(0)
	for _, e := range known {
		s += next()
		e.Ctime.Sec = s
	}
	for _, e := range known {
		ns += next()
		e.Ctime.Nsec = uint32(ns)
	}
	if _, err := r.ReadByte(); rows != 0 || err != io.EOF {
		f.t.Errorf("stat page: %d rows left, %d bytes", rows, r.Len())
	}
}
