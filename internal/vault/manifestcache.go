package vault

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"holdfast/internal/seal"
	"holdfast/internal/vault/format"
)

// A prune keeps on this host which packs each manifest names, so that the next
// prune reads only the manifests that came since. That is safe: a manifest is
// written once, under a name with 64 random bits. The file is sealed under the
// vault's key, so nobody else can make a pack look unneeded. What follows the
// first frame that does not open counts as not there. The file has the bytes:
//
//	magic, 16 random bytes, then frames: length u32 | last u8 | sealed plaintext
//	last: 1 in the last frame, else 0; nonce: number of the frame; additional data: last
//
// The plaintext has the number of known packs and their sorted ids, and then for each manifest the
// length of its name, the name, the size of the object, how many packs it names, and their numbers
// in the list, each but the first as the difference to the number before. Numbers are unsigned
// varints. A name of length 0 ends the plaintext. The file may be deleted at any time.

const (
	manifestCacheMagic = "HFMCACH\x01"
	manifestCacheName  = "manifests"
	cacheFrame         = 64 << 10 // bytes of plaintext
)

// manifestCacheFile is the path of the file; "" where the host keeps none.
func (p *prune) manifestCacheFile() string {
	if p.o.IndexDir == "" {
		return ""
	}
	return filepath.Join(p.o.IndexDir, p.v.Fingerprint(), manifestCacheName)
}

func (v *Vault) manifestCacheAEAD(salt []byte) cipher.AEAD {
	return seal.NewAEAD(format.Subkey(v.meta, "manifest cache", salt))
}

// cacheReader reads the plaintext of the file.
type cacheReader struct {
	r     io.Reader
	aead  cipher.AEAD
	n     uint32
	plain []byte
	last  bool
}

var errCacheEnds = errors.New("the list of packs of manifests does not open")

// Read implements io.Reader.
func (c *cacheReader) Read(p []byte) (int, error) {
	for len(c.plain) == 0 {
		if c.last {
			return 0, io.EOF
		}
		var head [5]byte // length, and whether it is the last
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, errCacheEnds
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n < format.Tag || n > cacheFrame+format.Tag {
			return 0, errCacheEnds
		}
		sealed := make([]byte, n)
		if _, err := io.ReadFull(c.r, sealed); err != nil {
			return 0, errCacheEnds
		}
		plain, err := c.aead.Open(sealed[:0], format.Nonce(c.n), sealed, head[4:])
		if err != nil {
			return 0, errCacheEnds
		}
		c.plain, c.last = plain, head[4] == 1
		c.n++
	}
	n := copy(p, c.plain)
	c.plain = c.plain[n:]
	return n, nil
}

// cacheWriter writes the file. It is for one goroutine. An error of the disk is no error: then the
// host keeps no new file. nil writes nothing.
type cacheWriter struct {
	f     *os.File
	path  string
	aead  cipher.AEAD
	n     uint32
	plain []byte
	err   error
}

// newCacheWriter begins a file beside path; nil where the disk does
// not take it, or another prune of this host writes one.
func (v *Vault) newCacheWriter(path string) *cacheWriter {
	if path == "" || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return nil
	}
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // crypto/rand.Read never fails
	w := &cacheWriter{f: f, path: path, aead: v.manifestCacheAEAD(salt)}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || f.Truncate(0) != nil {
		_ = f.Close() // nothing was written
		return nil
	}
	_, w.err = f.Write(append([]byte(manifestCacheMagic), salt...))
	return w
}

func (w *cacheWriter) write(p []byte) {
	if w == nil || w.err != nil {
		return
	}
	for w.plain = append(w.plain, p...); len(w.plain) > cacheFrame; {
		w.frame(w.plain[:cacheFrame], 0)
		w.plain = append(w.plain[:0], w.plain[cacheFrame:]...)
	}
}

func (w *cacheWriter) frame(plain []byte, last byte) {
	head := append(binary.LittleEndian.AppendUint32(nil, uint32(len(plain)+format.Tag)), last)
	sealed := w.aead.Seal(head, format.Nonce(w.n), plain, []byte{last})
	w.n++
	if _, err := w.f.Write(sealed); w.err == nil {
		w.err = err
	}
}

// numbers writes numbers as varints.
func (w *cacheWriter) numbers(all ...uint64) {
	var b []byte
	for _, n := range all {
		b = binary.AppendUvarint(b, n)
	}
	w.write(b)
}

// manifest writes an entry. It leaves out a manifest that names a pack which is not in packs.
func (w *cacheWriter) manifest(name string, size int64, packs []PackID, named []PackRef) {
	if w == nil {
		return
	}
	at := make([]int, len(named))
	for i, ref := range named {
		n, known := slices.BinarySearchFunc(packs, ref.ID, comparePacks)
		if !known {
			return
		}
		at[i] = n
	}
	slices.Sort(at)
	b := append(binary.AppendUvarint(nil, uint64(len(name))), name...)
	b = binary.AppendUvarint(b, uint64(size))
	b = binary.AppendUvarint(b, uint64(len(at)))
	before := 0
	for _, n := range at {
		b = binary.AppendUvarint(b, uint64(n-before))
		before = n
	}
	w.write(b)
}

// end puts the file into its place, or drops it.
func (w *cacheWriter) end(keep bool) {
	if w == nil {
		return
	}
	if keep {
		w.numbers(0)
		w.frame(w.plain, 1)
	}
	if keep && w.err == nil {
		w.err = os.Rename(w.path+".new", w.path)
	}
	if !keep || w.err != nil {
		_ = os.Remove(w.path + ".new") // a file that stays costs room and nothing else
	}
	_ = w.f.Close() // a file that is not whole does not open
}

// nameCached names the packs of the manifests that an earlier prune of this host has read, and
// begins the file of this run.
func (p *prune) nameCached(refs []BackupRef) {
	path := p.manifestCacheFile()
	if path == "" {
		return
	}
	p.known = p.knownPacks()
	if !p.o.DryRun {
		p.cache = p.v.newCacheWriter(path)
	}
	if p.cache != nil {
		p.cache.numbers(uint64(len(p.known)))
		for _, id := range p.known {
			p.cache.write(id[:])
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close() // only read
	sizes := make(map[string]int64, len(refs))
	for _, ref := range refs {
		sizes[fullName(ref)] = ref.Size
	}
	_ = p.readCached(bufio.NewReaderSize(f, 256<<10), sizes) // the other manifests are read from the store
}

// knownPacks are the packs of the list and the moved packs, sorted.
func (p *prune) knownPacks() []PackID {
	if len(p.moves.to) == 0 {
		return p.packs.ids
	}
	all := slices.Clone(p.packs.ids)
	for id := range p.moves.to {
		if _, listed := p.packs.find(id); !listed {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, comparePacks)
	return all
}

// readCached reads an earlier file, and names the packs of each
// manifest that has the size in sizes.
func (p *prune) readCached(f io.Reader, sizes map[string]int64) error {
	head := make([]byte, len(manifestCacheMagic)+16)
	if _, err := io.ReadFull(f, head); err != nil || !bytes.HasPrefix(head, []byte(manifestCacheMagic)) {
		return errCacheEnds
	}
	r := bufio.NewReaderSize(&cacheReader{r: f, aead: p.v.manifestCacheAEAD(head[len(manifestCacheMagic):])}, cacheFrame)
	n, err := binary.ReadUvarint(r)
	if err != nil || n > 1<<28 {
		return errCacheEnds
	}
	at := make([]int32, 0, min(n, 1<<20)) // in known, of each pack of the file; -1 where it is unknown now
	for next := 0; uint64(len(at)) < n; {
		var id PackID
		if _, err := io.ReadFull(r, id[:]); err != nil {
			return err
		}
		for next < len(p.known) && comparePacks(p.known[next], id) < 0 {
			next++
		}
		if next < len(p.known) && p.known[next] == id {
			at = append(at, int32(next)) //nolint:gosec // fewer packs than fit
		} else {
			at = append(at, -1)
		}
	}
	for {
		name, size, packs, err := readCacheEntry(r, at)
		if err != nil || name == "" {
			return err
		}
		if want, listed := sizes[name]; !listed || want != size || packs == nil || p.read[name] {
			continue
		}
		p.read[name] = true
		refs := make([]PackRef, len(packs))
		for i, n := range packs {
			refs[i].ID = p.known[n]
			p.name(refs[i].ID)
		}
		p.report.Cached++
		p.cache.manifest(name, size, p.known, refs)
	}
}

// readCacheEntry reads one entry; a name of "" ends the file. packs is nil where a pack of the
// manifest is not known any more.
func readCacheEntry(r *bufio.Reader, at []int32) (name string, size int64, packs []int32, err error) {
	var failed error
	number := func() uint64 {
		n, err := binary.ReadUvarint(r)
		failed = errors.Join(failed, err)
		return n
	}
	n := number()
	if failed != nil || n > 256 {
		return "", 0, nil, errCacheEnds
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil || n == 0 {
		return "", 0, nil, err
	}
	size = int64(number()) //nolint:gosec // compared only
	count := number()
	if failed != nil || count > MaxPacks {
		return "", 0, nil, errCacheEnds
	}
	packs = make([]int32, 0, min(count, 1<<12))
	known, last := true, uint64(0)
	for range count {
		last += number()
		if failed != nil || last >= uint64(len(at)) {
			return "", 0, nil, errCacheEnds
		}
		known = known && at[last] >= 0
		packs = append(packs, at[last])
	}
	if !known {
		packs = nil
	}
	return string(text), size, packs, nil
}
