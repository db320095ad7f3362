package agent

import (
	"strings"
	"testing"

	"holdfast/agent/model"
	"holdfast/agent/prepare"
	"holdfast/internal/backup/known"
	"holdfast/internal/origin"
)

// TestOriginOfAVolume: the mark's word, the journal's word, and the cases that neither can know.
func TestOriginOfAVolume(t *testing.T) {
	const (
		here, elsewhere = "handle-1", "handle-2"
		folder, image   = model.KindFolder, model.KindImage
	)
	root := func(handle string) model.Root {
		return model.Root{Kind: folder, FileSystem: "ext4 1", Handle: handle, Entries: 5}
	}
	kept := func(r model.Root, marked bool) map[string]model.Root {
		r.Marked = marked
		return map[string]model.Root{"data": r}
	}
	b5 := model.Content{Backup: "b5", Seq: 5, Tenant: "acme", Volumes: kept(root(here), true)}
	mark := func(backup string, seq uint64, handle string, edits ...func(*origin.Mark)) origin.Mark {
		m := origin.Mark{Backup: backup, Seq: seq, Tenant: "acme", Instance: "phone-1", Volume: "data", Host: "h", At: origin.Place{FileSystem: "ext4 1", Root: handle}}
		for _, edit := range edits {
			edit(&m)
		}
		return m
	}
	with := func(c model.Content, edit func(*model.Content)) model.Content { edit(&c); return c }
	none := origin.Mark{}
	for _, tt := range []struct {
		name     string
		presence prepare.Presence // "": content
		at       model.Root       // zero: root(here)
		mark     origin.Mark
		known    model.Content
		tenant   string // "": acme
		want     prepare.Origin
		backup   string
		why      string
	}{
		{name: "all agree", mark: mark("b5", 5, here), known: b5, want: prepare.OriginChanged, backup: "b5"},
		{name: "missing", presence: prepare.VolumeMissing, known: b5, want: prepare.OriginNone},
		{name: "nobody knows anything", want: prepare.OriginUnknown},
		{name: "empty, and nobody knows anything", presence: prepare.VolumeEmpty, want: prepare.OriginNone},
		{name: "empty, and all agree", presence: prepare.VolumeEmpty, mark: mark("b5", 5, here), known: b5, want: prepare.OriginChanged, backup: "b5"},
		{
			name: "empty, another folder, where the backup had content", presence: prepare.VolumeEmpty, at: root(elsewhere), known: b5,
			want: prepare.OriginForeign, why: "filled anew",
		},
		{
			name: "empty, another folder, where the backup had nothing", presence: prepare.VolumeEmpty, at: root(elsewhere), want: prepare.OriginNone,
			known: with(b5, func(c *model.Content) {
				c.Volumes = kept(model.Root{Kind: folder, FileSystem: "ext4 1", Handle: here}, true)
			}),
		},
		{name: "another folder without a mark", at: root(elsewhere), known: b5, want: prepare.OriginForeign, why: "filled anew"},
		{
			name: "another file system", at: model.Root{Kind: folder, FileSystem: "ext4 2", Handle: here}, mark: mark("b5", 5, here), known: b5,
			want: prepare.OriginForeign, why: "a copy",
		},
		{name: "a copy", at: root(elsewhere), mark: mark("b5", 5, here), known: b5, want: prepare.OriginForeign, why: "a copy"},
		{name: "a copy, and the journal is lost", at: root(elsewhere), mark: mark("b5", 5, here), want: prepare.OriginForeign, why: "a copy"},
		{name: "the mark is gone", known: b5, want: prepare.OriginForeign, why: "is gone"},
		{name: "no mark could be kept", known: with(b5, func(c *model.Content) { c.Volumes = kept(root(here), false) }), want: prepare.OriginChanged, backup: "b5", why: "journal alone"},
		{
			name: "the new mark could not be written", mark: mark("b4", 4, here), known: with(b5, func(c *model.Content) { c.Volumes = kept(root(here), false) }),
			want: prepare.OriginChanged, backup: "b5",
		},
		{name: "an old disk came back", mark: mark("b4", 4, here), known: b5, want: prepare.OriginForeign, backup: "b4", why: "old disk"},
		{name: "the journal was set back", mark: mark("b6", 6, here), known: b5, want: prepare.OriginChanged, backup: "b6", why: "does not know"},
		{name: "the journal was lost", mark: mark("b6", 6, here), want: prepare.OriginChanged, backup: "b6", why: "does not know"},
		{
			name: "a disk of another host", mark: mark("b6", 6, here, func(m *origin.Mark) { m.Host = "x" }), want: prepare.OriginChanged, backup: "b6",
			why: "another host",
		},
		{
			name: "the volume of another instance", mark: mark("b5", 5, here, func(m *origin.Mark) { m.Instance = "phone-2" }),
			want: prepare.OriginForeign, why: "another instance",
		},
		{name: "a mark of another tenant", mark: mark("b5", 5, here), known: b5, tenant: "other", want: prepare.OriginTenant, why: "its mark"},
		{name: "a copy with a mark of another tenant", at: root(elsewhere), mark: mark("b5", 5, here), tenant: "other", want: prepare.OriginTenant, why: "its mark"},
		{
			name: "the journal knows another tenant, and no mark can be kept", tenant: "other", want: prepare.OriginTenant, why: "the journal",
			known: with(b5, func(c *model.Content) { c.Volumes = kept(root(here), false) }),
		},
		{name: "an operator took the mark of another tenant off", known: b5, tenant: "other", want: prepare.OriginUnknown},
		{name: "another folder after another tenant", at: root(elsewhere), known: b5, tenant: "other", want: prepare.OriginUnknown},
		{name: "empty, after another tenant", presence: prepare.VolumeEmpty, mark: mark("b5", 5, here), known: b5, tenant: "other", want: prepare.OriginForeign},
		{name: "a file in the place of a folder", at: model.Root{Kind: image, FileSystem: "ext4 1", Handle: elsewhere, Size: 4}, known: b5, want: prepare.OriginForeign, why: "it was a folder"},
		{
			name: "an image of another size", at: model.Root{Kind: image, FileSystem: "ext4 1", Handle: here, Size: 8}, mark: mark("b5", 5, here),
			known: with(b5, func(c *model.Content) {
				c.Volumes = kept(model.Root{Kind: image, FileSystem: "ext4 1", Handle: here, Size: 4}, true)
			}),
			want: prepare.OriginForeign, backup: "b5", why: "8 bytes, and had 4",
		},
		{
			name: "a device that tells nothing of itself", at: model.Root{Kind: image, FileSystem: "block device"}, want: prepare.OriginChanged, backup: "b5",
			known: with(b5, func(c *model.Content) { c.Volumes = kept(model.Root{Kind: image, FileSystem: "block device"}, false) }),
		},
		{name: "a volume that the backup did not have", known: with(b5, func(c *model.Content) { c.Volumes = nil }), want: prepare.OriginForeign, why: "no such volume"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := volumeSight{presence: tt.presence, root: tt.at, mark: tt.mark}
			if s.presence == "" {
				s.presence = prepare.VolumeContent
			}
			if s.root == (model.Root{}) {
				s.root = root(here)
			}
			if s.mark == none {
				s.markErr = origin.ErrNoMark
			}
			b := belongs{tenant: tt.tenant, instance: "phone-1", volume: "data", host: "h"}
			if b.tenant == "" {
				b.tenant = "acme"
			}
			got := originOf(s, tt.known, b)
			if got.Origin != tt.want || got.Backup.Backup != tt.backup || !strings.Contains(got.Why, tt.why) {
				t.Errorf("origin %q of backup %q (%s)", got.Origin, got.Backup.Backup, got.Why)
			}
			if got.Volume != "data" || got.Presence != s.presence {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestLikenedOrigin: each likeness is an origin, and content that is not the backup says why.
func TestLikenedOrigin(t *testing.T) {
	f := prepare.VolumeFacts{Volume: "data", Origin: prepare.OriginChanged, Backup: model.Content{Backup: "b5"}}
	for want, c := range map[prepare.Origin][]known.Comparison{
		prepare.OriginSame:    {{Looked: 4, Same: 4}},
		prepare.OriginChanged: {{}, {Looked: 4, Same: 3, Changed: 1}, {Looked: 4, Same: 3, Gone: 1}, {Looked: 4, Same: 4, Folders: 1}, {Looked: 4, Same: 4, Partly: true}},
		prepare.OriginHalf:    {{Looked: 4, Same: 2, Gone: 2}},
		prepare.OriginForeign: {{Looked: 4, Replaced: 4}, {Looked: 4, Same: 3, Changed: 1, Back: 1}},
	} {
		for _, c := range c {
			got := likened(f, c)
			if got.Origin != want || (got.Why == "") != (want == prepare.OriginSame || want == prepare.OriginChanged) {
				t.Errorf("%+v: %q (%s), want %q", c, got.Origin, got.Why, want)
			}
		}
	}
}
