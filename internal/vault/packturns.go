package vault

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// A host keeps beside its index when it last read back chunks of each pack, so
// that a backup samples the packs whose turn came longest ago. Turns are counted
// and no clock is asked. The file is bounded: the packs whose turns are the oldest
// fall out of it, and are then as good as never sampled. It may be deleted, torn
// or forged: all that depends on it is which packs are sampled next.
const (
	turnsFile  = "sampled"
	turnsMagic = "HFTURN\x00\x01"
	maxTurns   = 1 << 16
)

// turnsMu is held while the file is changed. Of two processes that
// change it at once, one's turns are forgotten.
var turnsMu sync.Mutex

// readTurns reads the file, and leaves out damaged parts.
func (v *Vault) readTurns(dir string) (turns map[PackID]uint32, last uint32) {
	turns = map[PackID]uint32{}
	b, err := os.ReadFile(filepath.Join(dir, v.Fingerprint(), turnsFile))
	if err != nil || len(b) < len(turnsMagic) || string(b[:len(turnsMagic)]) != turnsMagic {
		return turns, 0
	}
	for b = b[len(turnsMagic):]; len(b) >= 20 && len(turns) < maxTurns; b = b[20:] {
		turn := binary.LittleEndian.Uint32(b[16:])
		turns[PackID(b)] = turn
		last = max(last, turn)
	}
	return turns, last
}

// LongestUnsampled returns up to n of the packs: first the packs that
// this host never sampled, and then the packs whose turn came longest
// ago. dir is the folder of the index; "" makes a random choice.
func (v *Vault) LongestUnsampled(dir string, packs []PackRef, n int) []PackRef {
	packs = slices.Clone(packs)
	rand.Shuffle(len(packs), func(i, j int) { packs[i], packs[j] = packs[j], packs[i] })
	if dir != "" {
		turns, _ := v.readTurns(dir)
		slices.SortStableFunc(packs, func(a, b PackRef) int { return cmp.Compare(turns[a.ID], turns[b.ID]) })
	}
	return packs[:min(n, len(packs))]
}

// NoteSampled notes that the packs had their turn now. A note that can't be written is forgotten.
func (v *Vault) NoteSampled(dir string, packs []PackRef) {
	if dir == "" || len(packs) == 0 {
		return
	}
	turnsMu.Lock()
	defer turnsMu.Unlock()
	turns, last := v.readTurns(dir)
	if last == 1<<32-1 { // no counter of one host gets there: the file is forged, or torn
		clear(turns)
		last = 0
	}
	for _, p := range packs {
		turns[p.ID] = last + 1
	}
	type turn struct {
		id PackID
		at uint32
	}
	all := make([]turn, 0, len(turns))
	for id, at := range turns {
		all = append(all, turn{id, at})
	}
	slices.SortFunc(all, func(a, b turn) int { return cmp.Compare(b.at, a.at) })
	b := []byte(turnsMagic)
	for _, t := range all[:min(len(all), maxTurns)] {
		b = binary.LittleEndian.AppendUint32(append(b, t.id[:]...), t.at)
	}
	f, err := os.CreateTemp(filepath.Join(dir, v.Fingerprint()), unfinished+"*")
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if f.Close() != nil || err != nil || os.Rename(f.Name(), filepath.Join(dir, v.Fingerprint(), turnsFile)) != nil {
		_ = os.Remove(f.Name()) // a file that stays is swept later
	}
}
