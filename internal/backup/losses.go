package backup

import (
	"fmt"
	"hash/maphash"
	"strings"
	"sync"

	"holdfast/internal/pattern"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// A loss is content of a volume that the backup should have and lacks.
// Walk and workers tell it as a Warning that is Lost. It is counted, and
// the manifest names it, so that nobody takes the backup for whole later.

const (
	// lossBytes bounds the paths and words of the named losses in a
	// manifest: a path can have megabytes.
	lossBytes = 1 << 20
	// lossWhat bounds the text of one loss, bytes.
	lossWhat = 1 << 10
	// lossPaths bounds the lost entries of a volume in memory (some 10 MiB),
	// so that an entry that is lost twice, by its attributes and by its
	// content, counts once. Beyond the bound such an entry counts twice.
	lossPaths = 1 << 18
)

// losses collects the losses of all volumes of a run. Its methods may be called from any goroutine.
type losses struct {
	mu       sync.Mutex
	list     []vault.Loss
	bytes    int
	lost     int // that nobody accepted
	accepted int
}

// add counts a loss and names it while there is room. It returns
// the place of the loss in the list, or -1.
func (l *losses) add(loss vault.Loss) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if loss.Accepted {
		l.accepted++
	} else {
		l.lost++
	}
	size, places, room := len(loss.Path)+len(loss.What), vault.MaxLosses, lossBytes
	if l.lost == 0 { // accepted losses leave room for the first that is not
		places, room = vault.MaxLosses-1, lossBytes/2
	}
	if len(l.list) >= places || l.bytes+size > room {
		return -1
	}
	l.bytes += size
	l.list = append(l.list, loss)
	return len(l.list) - 1
}

// say adds a reason to a loss that add named.
func (l *losses) say(at int, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	loss := &l.list[at]
	if strings.Contains(loss.What, what) || len(loss.What)+len(what) > lossWhat {
		return
	}
	loss.What += "; " + what
	l.bytes += len(what) + 2
}

// sum returns the list and the counts so far.
func (l *losses) sum() (list []vault.Loss, lost, accepted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]vault.Loss(nil), l.list...), l.lost, l.accepted
}

// volumeWarnings takes the warnings of one volume, and makes a loss
// of each that is Lost. Its methods may be called from any goroutine.
type volumeWarnings struct {
	losses *losses
	tell   func(tree.Warning)
	volume string
	image  bool // it has no paths
	accept *pattern.Set
	seed   maphash.Seed

	mu   sync.Mutex
	seen map[uint64]int // by the hash of the path: the place in the list of losses, or -1
}

// newVolumeWarnings adds the losses of a volume to l and gives all its warnings to tell.
func newVolumeWarnings(s Source, image bool, l *losses, tell func(tree.Warning)) (*volumeWarnings, error) {
	accept, err := pattern.Compile(s.AcceptLosses)
	if err != nil {
		return nil, fmt.Errorf("accepted losses: %w", err)
	}
	return &volumeWarnings{
		losses: l, tell: tell, volume: s.Volume, image: image, accept: accept, seed: maphash.MakeSeed(), seen: map[uint64]int{},
	}, nil
}

// Warn takes a warning. Several warnings of one path that are Lost are one loss.
func (v *volumeWarnings) Warn(w tree.Warning) {
	if w.Lost {
		v.lose(w.Path, w.What)
	}
	v.tell(w)
}

func (v *volumeWarnings) lose(path, what string) {
	if len(what) > lossWhat {
		what = strings.ToValidUTF8(what[:lossWhat], "") + "…"
	}
	what = strings.ToValidUTF8(what, "�")
	if v.image {
		path = ""
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := maphash.String(v.seed, path)
	if at, again := v.seen[key]; again {
		if at >= 0 {
			v.losses.say(at, what)
		}
		return
	}
	at := v.losses.add(vault.Loss{Volume: v.volume, Path: []byte(path), What: what, Accepted: v.accept.Covers(path)})
	if len(v.seen) < lossPaths {
		v.seen[key] = at
	}
}
