package prepare

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"holdfast/agent/model"
)

var update = flag.Bool("update", false, "rewrite ../PREPARE.md")

// The world of the table: this host made or restored backup K, and an earlier one was E. The
// vault's newest is N, unless that is K.
var (
	backupE = model.Content{Backup: "E", Seq: 4, Tenant: "t"}
	backupK = model.Content{Backup: "K", Seq: 5, Tenant: "t"}
	backupN = model.Content{Backup: "N", Seq: 6, Tenant: "t"}
)

// tableVolumes are the states in which a volume can be, and the facts that
// the adapter makes of each with and without a journal (agent/engine/origins.go).
var tableVolumes = []struct {
	name, means string
	known       VolumeFacts // where the journal knows backup K
	lost        VolumeFacts // where it knows nothing
}{
	{
		"same", "the content of K, and nothing changed",
		VolumeFacts{Presence: VolumeContent, Origin: OriginSame, Backup: backupK},
		VolumeFacts{Presence: VolumeContent, Origin: OriginSame, Backup: backupK},
	},
	{
		"newer", "came from K on this host, and changed since",
		VolumeFacts{Presence: VolumeContent, Origin: OriginChanged, Backup: backupK},
		VolumeFacts{Presence: VolumeContent, Origin: OriginChanged, Backup: backupK},
	},
	{
		"older", "bears the mark of E: an old disk, or one that was set back",
		VolumeFacts{Presence: VolumeContent, Origin: OriginForeign, Backup: backupE},
		VolumeFacts{Presence: VolumeContent, Origin: OriginChanged, Backup: backupE},
	},
	{
		"foreign", "a slot that was filled anew, another disk, or a copy; without a journal and a mark nobody can tell",
		VolumeFacts{Presence: VolumeContent, Origin: OriginForeign},
		VolumeFacts{Presence: VolumeContent, Origin: OriginUnknown},
	},
	{
		"half", "came from K, and half of the files or more are gone",
		VolumeFacts{Presence: VolumeContent, Origin: OriginHalf, Backup: backupK},
		VolumeFacts{Presence: VolumeContent, Origin: OriginHalf, Backup: backupK},
	},
	{"empty", "an empty folder, and the backup has content", VolumeFacts{Presence: VolumeEmpty, Origin: OriginForeign}, VolumeFacts{Presence: VolumeEmpty}},
	{
		"not mounted", "an empty folder, on another file system than the content of K was",
		VolumeFacts{Presence: VolumeEmpty, Origin: OriginForeign, Elsewhere: true},
		VolumeFacts{Presence: VolumeEmpty},
	},
	{"missing", "nothing lies at the path", VolumeFacts{Presence: VolumeMissing}, VolumeFacts{Presence: VolumeMissing}},
	{
		"other tenant", "the mark names another tenant",
		VolumeFacts{Presence: VolumeContent, Origin: OriginTenant},
		VolumeFacts{Presence: VolumeContent, Origin: OriginTenant},
	},
	{
		"other kind", "a file lies where the backup has a folder, or the reverse",
		VolumeFacts{Presence: VolumeContent, Kind: model.KindImage, Origin: OriginForeign},
		VolumeFacts{Presence: VolumeContent, Kind: model.KindImage, Origin: OriginUnknown},
	},
}

// tableInstances are how the instance is.
var tableInstances = []struct {
	name  string
	found model.RuntimeState
	holds bool
}{{"runs", model.IsRunning, true}, {"stopped", model.IsStopped, true}, {"can't be told", model.IsUnknown, true}, {"runtime: none", model.IsUnknown, false}}

var errSilentStore = errors.New("the store does not answer")

// tableNewest are the answers of the vault.
var tableNewest = []struct {
	name   string
	newest model.Content
	err    error
	fork   bool
}{
	{"K is the newest backup", backupK, nil, false},
	{"N is the newest, and continues K: the instance was on another host", backupN, nil, false},
	{"N is the newest, and does not continue K: a fork", backupN, nil, true},
	{"E is the newest, and the vault lacks K", backupE, nil, false},
	{"the vault has no backup", model.Content{}, model.ErrNoBackup, false},
	{"the store does not answer", model.Content{}, errSilentStore, false},
}

// facts puts a case together, as worker.facts does.
func tableFacts(volumes []VolumeFacts, journal bool, instance, newest int, edits ...func(*Facts)) Facts {
	n := tableNewest[newest]
	f := Facts{Found: tableInstances[instance].found, Holds: tableInstances[instance].holds, Newest: n.newest, NewestErr: n.err}
	f.Newest.Volumes = map[string]model.Root{}
	for i, v := range volumes {
		v.Volume = []string{"data", "media"}[i]
		if v.Kind == "" && v.Presence != VolumeMissing {
			v.Kind = model.KindFolder
		}
		f.Volumes = append(f.Volumes, v)
		if n.newest.Backup != "" {
			f.Newest.Volumes[v.Volume] = model.Root{Kind: model.KindFolder, Entries: 9}
		}
	}
	if journal {
		f.Known = backupK
	}
	for _, edit := range edits {
		edit(&f)
	}
	f.Settle("t")
	f.Relation = Relate(f.Known, f.Newest)
	if n.fork && f.Relation == RelationAhead && f.Known.Backup == "K" {
		f.Relation = RelationFork
	}
	return f
}

// table writes the document.
type table struct {
	strings.Builder
	notes []string
}

func (d *table) note(text string) string {
	i := slices.Index(d.notes, text)
	if i < 0 {
		i = len(d.notes)
		d.notes = append(d.notes, text)
	}
	return fmt.Sprint(i + 1)
}

func (d *table) cell(x Decision) string {
	switch {
	case x.Action == ActRefuse:
		return "refuse " + d.note(x.Err.Error())
	case x.Action == ActRestore && x.Certain:
		return "restore"
	case x.Action == ActRestore:
		return "restore, keep aside"
	case x.Warning != "":
		return "ready " + d.note(x.Warning)
	}
	return "ready"
}

// row looks at one state of the volumes, for each state of the instance.
func (d *table) row(t *testing.T, name string, volumes []VolumeFacts, journal bool, newest int, edits ...func(*Facts)) {
	t.Helper()
	cells := []string{name}
	for i := range tableInstances {
		f := tableFacts(volumes, journal, i, newest, edits...)
		x := Decide(f)
		promised(t, f, x)
		cells = append(cells, d.cell(x))
	}
	fmt.Fprintf(d, "| %s |\n", strings.Join(cells, " | "))
}

func (d *table) head(first string) {
	d.WriteString("\n| " + first)
	for _, in := range tableInstances {
		d.WriteString(" | " + in.name)
	}
	d.WriteString(" |\n|---|---|---|---|---|\n")
}

// promised holds what no combination may break.
func promised(t *testing.T, f Facts, d Decision) {
	t.Helper()
	wrong := func(what string) { t.Errorf("%s: %+v for %+v", what, d, f) }
	missing, content := len(f.names(VolumeMissing)) > 0, len(f.names(VolumeContent)) > 0
	if (d.Err != nil) != (d.Action == ActRefuse) {
		wrong("a refusal has a reason, and nothing else has")
	}
	switch d.Action {
	case ActReady:
		for _, v := range f.Volumes {
			if v.Presence == VolumeMissing || v.Origin == OriginForeign || v.Origin == OriginHalf || v.Origin == OriginTenant || v.Origin == OriginKind {
				wrong("ready without its volumes")
			}
			if f.Found != model.IsRunning && !v.from(f.Newest.Backup) {
				wrong("ready on another content than that of the newest backup")
			}
			if !errors.Is(f.NewestErr, model.ErrNoBackup) && v.Presence != VolumeMissing && (v.Origin == OriginUnknown || v.Origin == OriginNone) {
				wrong("ready on content of which nothing is known")
			}
		}
	case ActRestore:
		if f.Found == model.IsRunning || f.Found == model.IsFrozen || f.NewestErr != nil {
			wrong("restored while it runs, or without a backup")
		}
		if missing && content {
			wrong("restored although one volume is missing and another has content")
		}
		if content && slices.ContainsFunc(f.Volumes, func(v VolumeFacts) bool { return v.Elsewhere }) {
			wrong("restored although the disk of one volume may not be mounted and another has content")
		}
		if elsewhere := slices.ContainsFunc(f.Volumes, func(v VolumeFacts) bool { return v.Elsewhere }); elsewhere != (d.Warning != "") {
			wrong("a restore to another disk warns, and no other one does")
		}
		if content && (!f.Holds || f.Found == model.IsUnknown) {
			wrong("replaced under a program that may run")
		}
		for _, v := range f.Volumes {
			switch {
			case v.Presence != VolumeContent:
			case v.Origin == OriginTenant, v.Origin == OriginKind:
				wrong("replaced what is not the instance's")
			case v.Origin == OriginChanged && !f.Known.Released && !f.Chosen:
				wrong("replaced changes that no backup has")
			case d.Certain && (v.Origin != OriginSame || !f.Known.Released):
				wrong("replaced for good what may be in no backup")
			}
		}
	case ActRefuse:
		if f.Found == model.IsRunning && f.all(func(v VolumeFacts) bool { return v.Presence == VolumeContent && v.from(f.Volumes[0].Backup.Backup) }) {
			wrong("refused although it runs on its own volumes")
		}
	}
}

// TestPrepareNeverReplacesNewerBytes walks all combinations, of one
// volume and of two, and writes them down: PREPARE.md is made of it.
func TestPrepareNeverReplacesNewerBytes(t *testing.T) {
	d := &table{}
	d.WriteString(prepareHead)
	for _, v := range tableVolumes {
		fmt.Fprintf(d, "| %s | %s |\n", v.name, v.means)
	}
	for n, newest := range tableNewest {
		fmt.Fprintf(d, "\n## %s\n", strings.ToUpper(newest.name[:1])+newest.name[1:])
		for _, journal := range []bool{true, false} {
			what := "volume, and the journal knows K"
			if !journal {
				what = "volume, and the journal knows nothing"
			}
			d.head(what)
			for _, v := range tableVolumes {
				facts := v.known
				if !journal {
					facts = v.lost
				}
				d.row(t, v.name, []VolumeFacts{facts}, journal, n)
			}
		}
	}
	d.WriteString("\n## Two volumes, and K is the newest backup\n")
	d.head("volumes, and the journal knows K")
	for i, a := range tableVolumes {
		for _, b := range tableVolumes[i+1:] {
			d.row(t, a.name+" and "+b.name, []VolumeFacts{a.known, b.known}, true, 0)
		}
	}
	d.WriteString("\n## After a release of the instance on K, and N is the newest backup\n")
	released := func(f *Facts) { f.Known.Released = true }
	d.head("volume, and the journal knows K")
	for _, v := range tableVolumes {
		d.row(t, v.name, []VolumeFacts{v.known}, true, 1, released)
	}
	// The combinations that the document leaves out are checked all the same.
	for n := range tableNewest {
		for _, a := range tableVolumes {
			for _, b := range tableVolumes {
				for _, edit := range []func(*Facts){func(*Facts) {}, released, func(f *Facts) { f.Chosen = true }, func(f *Facts) { f.Start = true }} {
					for i := range tableInstances {
						for _, journal := range []bool{true, false} {
							f := tableFacts([]VolumeFacts{a.known, b.known}, journal, i, n, edit)
							if !journal {
								f = tableFacts([]VolumeFacts{a.lost, b.lost}, journal, i, n, edit)
							}
							promised(t, f, Decide(f))
						}
					}
				}
			}
		}
	}
	d.WriteString("\n## What it says\n\n")
	for i, text := range d.notes {
		fmt.Fprintf(d, "%d. %s\n", i+1, text)
	}
	got := d.String()
	if *update {
		if err := os.WriteFile("../PREPARE.md", []byte(got), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("../PREPARE.md")
	if err != nil || string(want) != got {
		t.Errorf("PREPARE.md is not what the function decides (%v); go test ./agent/prepare -run TestPrepareNeverReplacesNewerBytes -update writes it", err)
	}
}

const prepareHead = `# What prepare does

A test writes this page (` + "`go test ./agent/prepare -run TestPrepareNeverReplacesNewerBytes -update`" + `) from the function that decides
(agent/prepare/decide.go), for each combination of what the journal knows, what lies on the disk, how the instance is, and what the vault has.
[DESIGN.md](DESIGN.md) has the reasons, and what can't be told.

K is the backup that this host last made of the instance or restored here, E an earlier one, N a later one that another host made. *Ready* leaves
everything as it is. *Restore* brings the newest backup back, and removes what was in its place; *keep aside* keeps that. *Refuse* touches nothing.
The numbers lead to the words, below. An empty volume of which the backup has no content counts as *same*.

| volume | what that is |
|---|---|
`

// TestEmptyVolumesOfTheBackup: an empty folder where the newest backup has nothing is
// there, whether the journal knows it or not; where the backup has content it is not.
func TestEmptyVolumesOfTheBackup(t *testing.T) {
	data := VolumeFacts{Presence: VolumeContent, Origin: OriginChanged, Backup: backupK}
	for _, media := range []VolumeFacts{{Presence: VolumeEmpty}, {Presence: VolumeEmpty, Origin: OriginForeign}} {
		for i := range tableInstances {
			empty := func(f *Facts) { f.Newest.Volumes["media"] = model.Root{Kind: model.KindFolder} }
			if d := Decide(tableFacts([]VolumeFacts{data, media}, true, i, 0, empty)); d.Action != ActReady {
				t.Errorf("%s: %+v", tableInstances[i].name, d)
			}
			if d := Decide(tableFacts([]VolumeFacts{data, media}, true, i, 0)); d.Action != ActRefuse {
				t.Errorf("%s, and the backup has content: %+v", tableInstances[i].name, d)
			}
		}
	}
}

// TestOnlyEmptyOrMissingVolumesWithoutARuntime are restored where nobody tells who uses them.
func TestOnlyEmptyOrMissingVolumesWithoutARuntime(t *testing.T) {
	for _, presence := range []Presence{VolumeMissing, VolumeEmpty} {
		if d := Decide(tableFacts([]VolumeFacts{{Presence: presence}}, false, 3, 0)); d.Action != ActRestore {
			t.Errorf("%s: %+v", presence, d)
		}
	}
}

// TestKnownOfAnotherTenant says nothing about the order of this tenant's backups.
func TestKnownOfAnotherTenant(t *testing.T) {
	f := tableFacts([]VolumeFacts{{Presence: VolumeMissing}}, true, 1, 3, func(f *Facts) { f.Known.Tenant = "another" })
	if d := Decide(f); f.Relation != RelationNone || d.Action != ActRestore {
		t.Errorf("%+v: %+v", f, d)
	}
}
