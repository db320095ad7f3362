package backup

import (
	"context"

	"holdfast/internal/backup/known"
	"holdfast/internal/tree"
)

// walked is told of each entry of a walk; nil but for tests.
var walked func(path string)

// walk makes units.
func (p *pipeline) walk(ctx context.Context, excludeCaches bool) error {
	b := newBundle()
	sendBundle := func() error {
		if len(b.entries) == 0 {
			return nil
		}
		full := b
		b = newBundle()
		return p.send(ctx, full)
	}
	sendFull := func() error {
		if b.size < bundleMax && len(b.entries) < bundleEntries && b.weight < unitWeight {
			return nil
		}
		return sendBundle()
	}
	o := tree.WalkOptions{Warn: p.warnings.Warn, Vanished: p.away.add, ExcludeCaches: excludeCaches}
	if p.exclude != nil {
		o.Exclude = func(path string, folder func() bool) bool {
			out := p.exclude(path, folder)
			if out {
				p.counts.excluded.Add(1)
			}
			return out
		}
	}
	err := p.root.Walk(ctx, o, func(e *tree.Entry) error {
		p.away.stored(e)
		if walked != nil {
			walked(e.Path)
		}
		p.counts.entries.Add(1)
		file := e.Kind == tree.File && !e.HasLinkTo
		content := file && e.Size > 0
		if e.Kind == tree.File {
			p.counts.files.Add(1)
		}
		var changed *known.File
		if file && p.before != nil {
			k, ok := p.before.Find(e)
			switch {
			case ok && k.Same:
				b.setKnown(k.Stretch)
				if len(k.Extents) > 0 && p.picks() {
					b.check = append(b.check, len(b.entries))
				}
				b.entries = append(b.entries, e)
				b.weight += weightOf(e) + k.Memory()
				p.counts.unchanged.Add(1)
				for _, x := range k.Extents {
					p.counts.known.Add(uint64(x.Len))
				}
				return sendFull()
			case ok:
				changed = &k
			}
		}
		if content && e.Size > bundleMax {
			if err := sendBundle(); err != nil {
				return err
			}
			u := newLargeFile(e)
			u.former = changed
			if changed != nil {
				u.weight += changed.Memory()
			}
			return p.send(ctx, u)
		}
		b.entries = append(b.entries, e)
		b.weight += weightOf(e)
		if content {
			b.size += e.Size
		}
		if b.size >= bundleMin && endsBundle(e.Path) {
			return sendBundle()
		}
		return sendFull()
	})
	if err != nil {
		return err
	}
	return sendBundle()
}

// endsBundle is true for one path in eight, and depends on nothing but the path.
func endsBundle(path string) bool {
	h := uint32(2166136261) // FNV-1a
	for i := range len(path) {
		h = (h ^ uint32(path[i])) * 16777619
	}
	return (h^h>>16)&7 == 0
}
