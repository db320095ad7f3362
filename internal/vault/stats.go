package vault

import (
	"context"
	"errors"
	"slices"
	"time"
)

// InstanceStats are the bytes that the backups of one instance take in a vault.
type InstanceStats struct {
	Instance  string    `json:"instance"`
	Backups   int       `json:"backups"`
	Forgotten int       `json:"forgotten"` // of these backups
	Newest    time.Time `json:"newest"`    // when the newest backup was made, by its host's clock
	Content   uint64    `json:"content_bytes"`
	// Unique are the bytes of the packs that only backups of this instance name, and Shared the
	// bytes of the packs that backups of other instances name too.
	Unique int64 `json:"unique_bytes"`
	Shared int64 `json:"shared_bytes"`
	// Grown are the bytes that the backups since StatsOptions.Since stored anew. A forgotten
	// backup whose manifest is deleted does not count.
	Grown uint64 `json:"grown_bytes"`
}

// Stats are the bytes of a vault's packs. Each pack counts as unique to an instance, as shared, or
// as garbage. Index, manifests and other small objects do not count.
type Stats struct {
	Backups int   `json:"backups"`
	Packs   int   `json:"packs"`
	Bytes   int64 `json:"bytes"`
	Shared  int64 `json:"shared_bytes"` // of the packs that several instances name
	// Garbage are packs that no manifest names: a prune deletes them, unless a backup under way
	// needs them.
	Garbage      int   `json:"garbage_packs"`
	GarbageBytes int64 `json:"garbage_bytes"`
	// Forgotten are the bytes of the packs that only forgotten backups name.
	Forgotten int64 `json:"forgotten_bytes"`
	// Missing is how many packs manifests name that the list of packs did not have. Packs of
	// backups that came meanwhile count too.
	Missing   int             `json:"missing_packs"`
	Grown     uint64          `json:"grown_bytes"` // of all instances
	Instances []InstanceStats `json:"instances"`   // by name
	// DamagedMarks names the marks of forgotten backups that do not open, and why. Their backups
	// count as not forgotten. "" where all marks open.
	DamagedMarks string `json:"damaged_marks,omitempty"`
}

const (
	ownerNobody int32 = -1 - iota
	ownerSeveral
)

// stats is a count under way.
type stats struct {
	packs     *packSet              // in the set: packs that a backup names which is not forgotten
	owner     []int32               // of each pack: the place of an instance, or one of owner…
	mine      []bool                // packs that backups of the instance at hand name
	named     []int                 // the places of these packs
	moves     map[PackID][][]PackID // of moved packs, the packs into which their chunks were moved
	forgotten map[string]Forgotten
	since     time.Time
	missing   map[PackID]bool
	out       *Stats
}

// Stats lists the packs and reads all manifests, and no recipe. It puts no session, so the counts
// are right for the moment of the look. Grown counts the backups that were begun after since. A
// manifest that does not open is an error, since nobody knows which packs it names. Stats takes 25
// bytes of memory for each pack.
func (v *Vault) Stats(ctx context.Context, since time.Time) (*Stats, error) {
	marks, err := v.ForgottenBackups(ctx)
	damaged := ""
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
		damaged = err.Error()
	} else if err != nil {
		return nil, err
	}
	refs, err := v.Backups(ctx, "") // before the packs: a listed manifest has its packs in the list
	if err != nil {
		return nil, err
	}
	c := &stats{forgotten: marks, since: since, missing: map[PackID]bool{}, out: &Stats{Instances: []InstanceStats{}, DamagedMarks: damaged}}
	if c.packs, err = v.listPackSet(ctx); err != nil {
		return nil, err
	}
	if c.moves, err = v.movedPacks(ctx); err != nil { // after the packs: a moved pack is in one of both
		return nil, err
	}
	clear(c.packs.in)
	c.owner = slices.Repeat([]int32{ownerNobody}, len(c.packs.ids))
	c.mine = make([]bool, len(c.packs.ids))
	for len(refs) > 0 {
		n := slices.IndexFunc(refs, func(r BackupRef) bool { return r.Instance != refs[0].Instance })
		if n < 0 {
			n = len(refs)
		}
		if err := c.instance(ctx, v, refs[:n]); err != nil {
			return nil, err
		}
		refs = refs[n:]
	}
	c.sum()
	return c.out, nil
}

// instance counts the backups of one instance.
func (c *stats) instance(ctx context.Context, v *Vault, refs []BackupRef) error {
	in := InstanceStats{Instance: refs[0].Instance}
	if err := v.eachManifest(ctx, refs, func(_ BackupRef, m *Manifest) { c.add(&in, m) }); err != nil {
		return err
	}
	at := int32(len(c.out.Instances)) //nolint:gosec // fewer instances than fit
	for _, i := range c.named {
		c.mine[i] = false
		in.Shared += int64(c.packs.sizes[i]) // of all; sum takes the unique ones away
		if c.owner[i] == ownerNobody {
			c.owner[i] = at
		} else {
			c.owner[i] = ownerSeveral
		}
	}
	c.named = c.named[:0]
	c.out.Instances = append(c.out.Instances, in)
	return nil
}

// add counts one backup of the instance at hand.
func (c *stats) add(in *InstanceStats, m *Manifest) {
	_, forgotten := c.forgotten[m.Instance+"/"+m.ID]
	c.out.Backups++
	in.Backups++
	if forgotten {
		in.Forgotten++
	}
	if in.Newest.Before(m.Created) {
		in.Newest, in.Content = m.Created, m.Bytes
	}
	if m.Created.After(c.since) {
		in.Grown += m.NewBytes
		c.out.Grown += m.NewBytes
	}
	for _, p := range m.Packs {
		c.name(p.ID, forgotten)
	}
}

// name counts a pack that a backup of the instance at hand names, and the packs into which its
// chunks were moved.
func (c *stats) name(id PackID, forgotten bool) {
	if !c.count(id, forgotten, 0) {
		c.missing[id] = true
	}
}

// count is name for a pack behind that many relocations. It tells whether the list has the pack, or
// all packs of one of its relocations.
func (c *stats) count(id PackID, forgotten bool, moves int) (there bool) {
	i, there := c.packs.find(id)
	if there {
		if !forgotten {
			c.packs.put(i)
		}
		if !c.mine[i] {
			c.mine[i] = true
			c.named = append(c.named, i)
		}
	}
	if moves == maxMoves {
		return there
	}
	for _, to := range c.moves[id] {
		whole := true
		for _, next := range to {
			whole = c.count(next, forgotten, moves+1) && whole
		}
		there = there || whole
	}
	return there
}

// sum adds the packs of all owners up.
func (c *stats) sum() {
	c.out.Packs, c.out.Missing = len(c.packs.ids), len(c.missing)
	for i, owner := range c.owner {
		bytes := int64(c.packs.sizes[i])
		c.out.Bytes += bytes
		switch owner {
		case ownerNobody:
			c.out.Garbage++
			c.out.GarbageBytes += bytes
			continue
		case ownerSeveral:
			c.out.Shared += bytes
		default:
			c.out.Instances[owner].Unique += bytes
			c.out.Instances[owner].Shared -= bytes
		}
		if !c.packs.has(i) {
			c.out.Forgotten += bytes
		}
	}
}
