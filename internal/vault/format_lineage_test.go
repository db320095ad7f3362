package vault_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// formatName is what FORMAT.md says of the id of a backup.
type formatName struct {
	seq, parentSeq      int
	tag, parent, branch string
	fork                bool
}

func readName(t *testing.T, id string) (n formatName) {
	t.Helper()
	p := strings.Split(id, "-")
	if len(p) < 5 || len(p[0]) != 8 || len(p[2]) != 16 || len(p[3]) != 16 || len(p[4]) != 8 {
		t.Fatalf("%q is no id", id)
	}
	var err, perr error
	n.seq, err = strconv.Atoi(p[0])
	n.parentSeq, perr = strconv.Atoi(p[3][:8])
	must(t, err)
	must(t, perr)
	n.tag, n.parent, n.branch, n.fork = p[2][:8], p[3][8:], p[4], slices.Contains(p[5:], "fork")
	return n
}

// on is the branch of a backup whose parent is among the names, or is none.
func (n formatName) on(all map[string]formatName) string {
	if n.fork || n.parentSeq == 0 {
		return n.tag
	}
	for _, o := range all {
		if o.tag != n.tag && !o.fork && o.parent == n.parent && o.branch == n.branch {
			return n.tag
		}
	}
	for _, o := range all {
		if o.tag == n.parent {
			return o.on(all)
		}
	}
	return n.branch
}

// TestFormatOfLineage reads from names, and from a decision,
// what FORMAT.md says of them, and none of this package's code.
func TestFormatOfLineage(t *testing.T) {
	st, id, nameKey := obs.NewMemory(), identity(t), []byte("the fleet's")
	v, err := vault.Create(t.Context(), st, "tenant", nameKey, nil, id)
	must(t, err)
	defer v.Close()
	write := func(l *vault.Lineage, seq uint64, parent string, fork ...string) string {
		t.Helper()
		m := &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: l.NewID(seq, time.Unix(1700000000, 0), parent, false), Fork: fork}
		must(t, v.WriteManifest(t.Context(), m))
		return m.ID
	}
	list := func() *vault.Lineage {
		t.Helper()
		l, err := v.Lineage(t.Context(), "i")
		must(t, err)
		return l
	}
	first := write(list(), 1, "")
	second := write(list(), 2, first)
	before := list()
	ofA, ofB := write(before, 3, second), write(before, 3, second) // at one moment
	nextA := write(list(), 4, ofA, ofB)
	stale := write(list(), 5, first, nextA, ofB)
	must(t, st.Delete(t.Context(), v.Info().ID+"/backups/i/"+second)) // as retention does
	_, err = v.Accept(t.Context(), "i", nextA, "host", "somebody")
	must(t, err)

	text, err := id.MarshalText()
	must(t, err)
	f := &formatReader{t: t, st: st, packs: map[string][]formatRow{}, sizes: map[string]int{}, chunks: map[string][]byte{}}
	f.header("tenant", nameKey, text)
	names, over := map[string]formatName{}, []any{}
	for _, key := range keys(t, st) {
		switch p := strings.Split(key, "/"); {
		case p[1] == "backups":
			names[p[3]] = readName(t, p[3])
			m := f.small("HFMANI\x00\x01", "manifest", p[2]+"/"+p[3], read(t, st, key)).(map[uint64]any)
			if parent, _ := m[13].(string); parent != "" && readName(t, parent).tag != names[p[3]].parent {
				t.Errorf("%s: the manifest says %v", p[3], m[13])
			}
			if forks, _ := m[17].([]any); p[3] == stale && (len(forks) != 2 || forks[0] != nextA || forks[1] != ofB) || p[3] == first && forks != nil {
				t.Errorf("%s: forks %v", p[3], forks)
			}
		case p[1] == "decisions":
			d := f.small("HFDECI\x00\x01", "decision", p[2]+"/"+p[3], read(t, st, key)).(map[uint64]any)
			if p[2] != "i" || !strings.HasPrefix(p[3], "00000001-") || d[1] != nextA || d[3] != "host" || d[5] != "somebody" || len(d) != 5 {
				t.Errorf("decision %s: %v", key, d)
			}
			over = d[2].([]any)
		}
	}
	branch := func(id string) string { return names[id].on(names) }
	if len(names) != 5 || branch(first) != names[first].tag || branch(ofA) != names[ofA].tag || branch(ofB) != names[ofB].tag || branch(nextA) != branch(ofA) ||
		branch(stale) != names[stale].tag || !names[stale].fork || names[ofA].branch != names[first].tag || names[ofA].fork || names[ofA].parentSeq != 2 {
		t.Errorf("the names say %+v", names)
	}
	if len(over) != 2 || !slices.Contains(over, any(ofB)) || !slices.Contains(over, any(stale)) {
		t.Errorf("the decision is over %v", over)
	}
	for id := range names {
		if got := list().Branch(id); got != branch(id) {
			t.Errorf("%s is on %s, the names say %s", id, got, branch(id))
		}
	}
	newest, err := v.Newest(t.Context(), "i")
	if err != nil || newest.ID != nextA {
		t.Errorf("the newest is %s, %v", newest.ID, err)
	}
}

// TestDecisions: the last decision counts, a branch that goes on is a fork
// again, and a decision that does not open is no decision for nothing.
func TestDecisions(t *testing.T) {
	v, _ := newVault(t)
	write := func(seq uint64, parent string) string {
		t.Helper()
		l, err := v.Lineage(t.Context(), "i")
		must(t, err)
		m := &vault.Manifest{Instance: "i", Seq: seq, Parent: parent, ID: l.NewID(seq, time.Unix(1700000000, 0), parent, false)}
		must(t, v.WriteManifest(t.Context(), m))
		return m.ID
	}
	newest := func() string {
		t.Helper()
		ref, err := v.Newest(t.Context(), "i")
		if err != nil {
			return ""
		}
		return ref.ID
	}
	first := write(1, "")
	if over, err := v.Accept(t.Context(), "i", first, "h", "o"); err != nil || len(over) > 0 {
		t.Errorf("nothing to decide: %v, %v", over, err)
	}
	a, b := write(2, first), write(3, first)
	if newest() != "" {
		t.Error("a fork has a newest backup")
	}
	for _, id := range []string{first, a + "0", "newest", vault.NewBackupID(9, time.Unix(0, 0), false)} {
		if over, err := v.Accept(t.Context(), "i", id, "h", "o"); err == nil {
			t.Errorf("%q is accepted, over %v", id, over)
		}
	}
	for _, id := range []string{a, b, b, a} {
		if _, err := v.Accept(t.Context(), "i", id, "h", "o"); err != nil || newest() != id {
			t.Errorf("%s is accepted, and the newest is %s, %v", id, newest(), err)
		}
	}
	if decided, err := v.Decisions(t.Context(), "i"); err != nil || len(decided) != 3 || decided[2].Number != 3 || decided[2].Backup != a || !slices.Equal(decided[2].Over, []string{b}) {
		t.Errorf("decided %+v, %v", decided, err)
	}
	next := write(4, a)
	if newest() != next {
		t.Errorf("the accepted branch goes on, and the newest is %s", newest())
	}
	again := write(5, b)
	if newest() != "" {
		t.Errorf("the other branch goes on too, and the newest is %s, not a fork with %s", newest(), again)
	}
	for key := range keysOf(t, v) {
		if strings.Contains(key, "/decisions/") {
			must(t, v.Store().Delete(t.Context(), key))
			must(t, v.Store().Put(t.Context(), key, []byte("HFDECI\x00\x01junk")))
			break
		}
	}
	if _, err := v.Lineage(t.Context(), "i"); err == nil {
		t.Error("a damaged decision is passed over")
	}
}

func keysOf(t *testing.T, v *vault.Vault) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for info, err := range v.Store().List(t.Context(), "") {
		must(t, err)
		all[info.Key] = true
	}
	return all
}
