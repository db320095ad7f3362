package vault

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lineageModel knows of each backup that was ever made from which one it truly came.
type lineageModel struct {
	parent  map[string]string // of all backups, also of removed ones; "" without one
	there   []BackupRef
	content []string // of each host, the backup from which its volumes came
	writers []*lineageWriter
	decided []Decision
}

// lineageWriter is a backup that one host makes while others make theirs.
type lineageWriter struct {
	host    int
	parent  string
	seq     uint64
	lineage *Lineage // as it was right before the manifest; nil before that
}

func (m *lineageModel) lineage() *Lineage {
	l := LineageOf(slices.Clone(m.there))
	for _, d := range m.decided {
		l.decide(d)
	}
	return l
}

// descends is what Lineage.Descends has to find out.
func (m *lineageModel) descends(id, ancestor string) bool {
	for ; id != ""; id = m.parent[id] {
		if id == ancestor {
			return true
		}
	}
	return false
}

func (m *lineageModel) writes(host int) bool {
	return slices.ContainsFunc(m.writers, func(w *lineageWriter) bool { return w.host == host })
}

// begin takes the sequence number, as a writer does when it begins.
func (m *lineageModel) begin(t *rapid.T) {
	host := rapid.IntRange(0, len(m.content)-1).Draw(t, "host")
	if m.writes(host) {
		t.Skip("the host makes a backup")
	}
	seq := uint64(1)
	for _, r := range m.there {
		seq = max(seq, r.Seq+1)
	}
	if p, ok := idRef(m.content[host]); ok {
		seq = max(seq, p.Seq+1)
	}
	m.writers = append(m.writers, &lineageWriter{host: host, parent: m.content[host], seq: seq})
}

// list is the look at the backups right before the manifest.
func (m *lineageModel) list(t *rapid.T) {
	w := m.writer(t, func(w *lineageWriter) bool { return w.lineage == nil })
	w.lineage = m.lineage()
}

func (m *lineageModel) write(t *rapid.T) {
	w := m.writer(t, func(w *lineageWriter) bool { return w.lineage != nil })
	// Only the command makes incomplete backups. It has
	// no journal, and takes the last one for the parent.
	incomplete := rapid.IntRange(0, 5).Draw(t, "incomplete") == 0
	if n := len(w.lineage.refs); incomplete && n > 0 {
		w.parent = w.lineage.refs[n-1].ID
		w.seq = max(w.seq, SeqOf(w.parent)+1)
	}
	id := w.lineage.NewID(w.seq, time.Unix(0, 0), w.parent, incomplete)
	ref, ok := RefOf("i", id)
	if !ok {
		t.Fatalf("%q is no id", id)
	}
	m.parent[id] = w.parent
	if !incomplete {
		m.content[w.host] = id
	}
	m.there = append(m.there, ref)
	slices.SortFunc(m.there, func(a, b BackupRef) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID)) })
	m.writers = slices.DeleteFunc(m.writers, func(o *lineageWriter) bool { return o == w })
}

func (m *lineageModel) writer(t *rapid.T, may func(*lineageWriter) bool) *lineageWriter {
	all := slices.DeleteFunc(slices.Clone(m.writers), func(w *lineageWriter) bool { return !may(w) })
	if len(all) == 0 {
		t.Skip("no writer is that far")
	}
	return rapid.SampledFrom(all).Draw(t, "writer")
}

// restore brings a backup to a host: the newest, or an earlier one.
func (m *lineageModel) restore(t *rapid.T) {
	host := rapid.IntRange(0, len(m.content)-1).Draw(t, "host")
	if len(m.there) == 0 || m.writes(host) {
		t.Skip("nothing to restore")
	}
	ref := rapid.SampledFrom(m.there).Draw(t, "backup")
	if ref.Incomplete {
		t.Skip("an incomplete backup")
	}
	m.content[host] = ref.ID
}

// forget is a host whose journal is lost.
func (m *lineageModel) forget(t *rapid.T) {
	host := rapid.IntRange(0, len(m.content)-1).Draw(t, "host")
	if m.writes(host) {
		t.Skip("the host makes a backup")
	}
	m.content[host] = ""
}

// remove is retention, which leaves the backups of Keep,
// and waits for writers that are about to write a manifest.
func (m *lineageModel) remove(t *rapid.T) {
	if slices.ContainsFunc(m.writers, func(w *lineageWriter) bool { return w.lineage != nil }) {
		t.Skip("a manifest is about to be written")
	}
	keep := m.lineage().Keep()
	var may []int
	for i, r := range m.there {
		if keep[r.ID] == "" {
			may = append(may, i)
		}
	}
	if len(may) == 0 {
		t.Skip("everything is kept")
	}
	heads := m.lineage().Heads()
	i := rapid.SampledFrom(may).Draw(t, "removed")
	gone := m.there[i].ID
	m.there = slices.Delete(m.there, i, i+1)
	// Removal undoes no decision.
	if now := m.lineage().Heads(); idsOf(now) != idsOf(heads) {
		t.Fatalf("the heads were %s, and without %s they are %s", idsOf(heads), gone, idsOf(now))
	}
}

// accept decides a fork.
func (m *lineageModel) accept(t *rapid.T) {
	l := m.lineage()
	heads := l.Heads()
	if len(heads) < 2 {
		t.Skip("no fork")
	}
	taken := rapid.SampledFrom(l.Tips()).Draw(t, "accepted")
	d := Decision{Instance: "i", Number: uint64(len(m.decided) + 1), Backup: taken.ID}
	for _, h := range heads {
		if h.ID != taken.ID {
			d.Over = append(d.Over, h.ID)
		}
	}
	m.decided = append(m.decided, d)
	if newest, err := m.lineage().Newest(); err != nil || newest.ID != taken.ID {
		t.Fatalf("%s is accepted, and the newest is %s: %v", taken.ID, newest.ID, err)
	}
}

func (m *lineageModel) check(t *rapid.T) {
	l := m.lineage()
	var tips []string
	for _, r := range m.there {
		for id := range m.parent {
			known, _ := idRef(id)
			if known.Incomplete && !slices.ContainsFunc(m.there, func(o BackupRef) bool { return o.ID == id }) {
				continue // no host has content of it
			}
			if got, want := l.Descends(r.ID, id), m.descends(r.ID, id); got != want {
				t.Fatalf("%s descends from %s: %v, but it is %v\n%s", r.ID, id, got, want, m.show(l))
			}
		}
		if !r.Incomplete && !slices.ContainsFunc(m.there, func(o BackupRef) bool { return !o.Incomplete && o.ID != r.ID && m.descends(o.ID, r.ID) }) {
			tips = append(tips, r.ID)
		}
		if p, ok := l.Parent(r); ok && p.ID != m.parent[r.ID] {
			t.Fatalf("the parent of %s is %s, but it is %s", r.ID, p.ID, m.parent[r.ID])
		}
	}
	var got []string
	for _, r := range l.Tips() {
		got = append(got, r.ID)
	}
	slices.Sort(tips)
	slices.Sort(got)
	if !slices.Equal(got, tips) {
		t.Fatalf("the tips are %v, want %v\n%s", got, tips, m.show(l))
	}
	// Of any content that a host has, the heads that it lacks are a fork.
	for _, id := range m.content {
		for _, h := range l.Heads() {
			told := slices.ContainsFunc(l.Fork(id), func(r BackupRef) bool { return r.ID == h.ID })
			if told == m.descends(id, h.ID) {
				t.Fatalf("content of %q lacks the head %s: told %v\n%s", id, h.ID, told, m.show(l))
			}
		}
	}
}

// add is a backup that a host made from that parent with the list of that time.
func (m *lineageModel) add(host int, l *Lineage, parent string) string {
	id := l.NewID(SeqOf(parent)+1, time.Unix(0, 0), parent, false)
	ref, _ := RefOf("i", id) // the rest of the model fails without the backup
	m.parent[id], m.content[host] = parent, id
	m.there = append(m.there, ref)
	slices.SortFunc(m.there, func(a, b BackupRef) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID)) })
	return id
}

// lateTwin begins with two hosts that continue one backup. The manifest of the one host
// comes after the other host has made several backups, whose names know no fork.
func (m *lineageModel) lateTwin() (middle string) {
	first := m.add(0, m.lineage(), "")
	before := m.lineage()
	a := m.add(0, before, first)
	middle = m.add(0, m.lineage(), a)
	m.add(0, m.lineage(), middle)
	m.add(1, before, first)
	return middle
}

func (m *lineageModel) show(l *Lineage) string {
	var b strings.Builder
	for _, r := range l.refs {
		fmt.Fprintf(&b, "%s on %s after %q\n", r.ID, l.Branch(r.ID), m.parent[r.ID])
	}
	return b.String()
}

// TestLineageModel: after any acts of hosts on the backups of one instance, the
// names of the remaining backups give the true lineage, and no fork goes unseen.
func TestLineageModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &lineageModel{parent: map[string]string{}, content: make([]string, 3)}
		if rapid.Bool().Draw(t, "late twin") {
			m.lateTwin()
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": m.begin, "list": m.list, "write": m.write, "write more": m.write, "restore": m.restore, "forget": m.forget,
			"remove": m.remove, "remove more": m.remove, "accept": m.accept, "": m.check,
		})
	})
}

// TestLateTwin: the backups that one host made while a backup of the same parent
// was under way on another host stay on their branch, whatever retention removes.
func TestLateTwin(t *testing.T) {
	m := &lineageModel{parent: map[string]string{}, content: make([]string, 2)}
	middle := m.lateTwin()
	l := m.lineage()
	newest := m.content[0]
	if n := len(l.Tips()); n != 2 || !l.Descends(newest, middle) {
		t.Fatalf("%d tips, want 2\n%s", n, m.show(l))
	}
	if why := l.Keep()[middle]; why != tellsBranch {
		t.Errorf("%s is kept because of %q, want %q\n%s", middle, why, tellsBranch, m.show(l))
	}
	// Without the backup nobody can tell the branch of the newest one, and a third tip appears.
	m.there = slices.DeleteFunc(m.there, func(r BackupRef) bool { return r.ID == middle })
	if n := len(m.lineage().Tips()); n != 3 {
		t.Errorf("without %s there are %d tips, so that the backup need not be kept", middle, n)
	}
}
