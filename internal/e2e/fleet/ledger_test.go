package fleet_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The ledger of a tablet is independent of the agents. It knows each record that the tablet was
// told durable, and finds each one in a volume, in a folder of people, in a backup of the vault, or
// in content that an agent kept aside and told the control plane of. Records are only appended, so
// a file with more records has all records of the same file with fewer.

// recordSize is the length of a record, bytes, as in testdata/phone.
const recordSize = 64

// content has, by the name of a file, how many records the file has.
type content map[string]int

// add keeps the longer files of both.
func (c content) add(other content) {
	for file, n := range other {
		c[file] = max(c[file], n)
	}
}

// isRecords tells files of records: of a life of the tablet, or of a template.
func isRecords(name string) bool {
	return strings.HasPrefix(name, "r-") || strings.HasPrefix(name, "t-")
}

// read finds the records in a folder. A folder that is not there has none.
func read(dir string) (content, error) {
	c := content{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a restore moved it meanwhile
		}
		if err != nil || !isRecords(e.Name()) {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			c.add(content{e.Name(): int(info.Size() / recordSize)})
		}
		return err
	})
	return c, err
}

// told has all durable records of the tablet's lives on all hosts, and of templates.
func (d *tablet) told() (content, error) {
	c := maps.Clone(d.templates)
	for _, h := range d.f.hosts {
		one, err := d.toldOn(h)
		if err != nil {
			return nil, err
		}
		c.add(one)
	}
	return c, nil
}

// toldOn has the durable records of the lives on one host.
func (d *tablet) toldOn(h *host) (content, error) {
	all, err := lines(filepath.Join(d.dir(h), "told"))
	if err != nil {
		return nil, err
	}
	c := content{}
	for _, line := range all {
		var file string
		var n int
		if _, err := fmt.Sscan(line, &file, &n); err != nil {
			return nil, fmt.Errorf("%s told %q: %w", d.id, line, err)
		}
		c[file] = max(c[file], n)
	}
	return c, nil
}

// inPlace has the records in the volumes on a host.
func (d *tablet) inPlace(h *host) (content, error) {
	c := content{}
	for _, v := range volumeNames {
		one, err := read(filepath.Join(d.home(h), v))
		if err != nil {
			return nil, err
		}
		c.add(one)
	}
	return c, nil
}

// keptPrefix begins the names of the folders in which agents keep content aside. The name of the
// job and of the volume follow.
const keptPrefix = ".holdfast-kept-"

// kept has, by job, the content that agents keep aside.
func (d *tablet) kept() (map[string]content, error) {
	all := map[string]content{}
	for _, h := range d.f.hosts {
		folders, err := filepath.Glob(filepath.Join(d.home(h), keptPrefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, dir := range folders {
			job := strings.TrimPrefix(filepath.Base(dir), keptPrefix)
			for _, v := range volumeNames {
				job = strings.TrimSuffix(job, "-"+v)
			}
			if all[job] == nil {
				all[job] = content{}
			}
			one, err := read(dir)
			if err != nil {
				return nil, err
			}
			all[job].add(one)
		}
	}
	return all, nil
}

// stored is a backup in a vault, as the list of the vault has it.
type stored struct {
	Backup string `json:"backup"`
	Parent string `json:"parent"`
	Branch string `json:"branch"`
	Head   bool   `json:"head"`
}

// list lists the backups of the tablet in a tenant's vault, the oldest first.
func (d *tablet) list(ctx context.Context, t *tenant) ([]stored, error) {
	out, err := d.f.ask(ctx, t, "list", "--json", "--instance", d.id)
	if err != nil {
		return nil, err
	}
	var l struct {
		Backups []stored `json:"backups"`
	}
	return l.Backups, json.Unmarshal(out, &l)
}

// backed has the content of one backup. A name of another tenant in it is told once.
func (d *tablet) backed(ctx context.Context, t *tenant, backup string) (content, error) {
	key := t.id + "/" + backup
	if c := d.backups[key]; c != nil {
		return c, nil
	}
	out, err := d.f.ask(ctx, t, "ls", "--json", "--recursive", backup)
	if err != nil {
		return nil, err
	}
	c := content{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		var e struct {
			Path string `json:"path"`
			Size int64  `json:"size"`
		}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("ls of %s: %w", backup, err)
		}
		if name := filepath.Base(e.Path); isRecords(name) {
			c.add(content{name: int(e.Size / recordSize)})
			d.meets(t, name, "backup "+backup+" in the vault of tenant "+t.id)
		}
	}
	d.backups[key] = c
	return c, nil
}

// meets tells of a file of another tenant.
func (d *tablet) meets(t *tenant, file, where string) {
	if strings.HasPrefix(file, "r-") && !strings.HasPrefix(file, "r-"+t.letter) && d.f.trail.once("tenants meet: "+d.id+where) {
		d.f.found("%s: tenants meet: %s has %s", d.id, where, file)
	}
}

// saved has the records of all backups in all vaults.
func (d *tablet) saved(ctx context.Context) (content, error) {
	c := content{}
	for _, t := range tenants {
		all, err := d.list(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, b := range all {
			one, err := d.backed(ctx, t, b.Backup)
			if err != nil {
				return nil, err
			}
			c.add(one)
		}
	}
	return c, nil
}

// lost is an error where a durable record is nowhere, or is
// only in content that is kept aside without a word.
func (d *tablet) lost(ctx context.Context) error {
	all, err := d.told() // first: a record that is told later need not be found
	if err != nil {
		return err
	}
	there, err := d.withPeople()
	if err != nil {
		return err
	}
	for _, h := range d.f.hosts {
		one, err := d.inPlace(h)
		if err != nil {
			return err
		}
		there.add(one)
	}
	missing := func() (files []string) {
		for file, n := range all {
			if there[file] < n {
				files = append(files, fmt.Sprintf("%s: %d of %d records", file, there[file], n))
			}
		}
		slices.Sort(files)
		return files
	}
	if len(missing()) == 0 {
		return nil
	}
	saved, err := d.saved(ctx)
	if err != nil {
		return err
	}
	there.add(saved)
	if len(missing()) == 0 {
		return nil
	}
	kept, err := d.kept()
	if err != nil {
		return err
	}
	silent := ""
	for job, c := range kept {
		if d.f.plane.keeps(job) {
			there.add(c)
		} else {
			silent += " " + job
		}
	}
	if m := missing(); len(m) > 0 {
		return fmt.Errorf("durable records are in no volume, in no backup, and in no kept content of which a report tells (without a report: %q): %s", silent, m)
	}
	d.f.trail.count("looks that found records in kept content alone")
	return nil
}

// ledgerPatience is how long a report, a store or a job of an earlier life may take until
// the ledger is right again.
const ledgerPatience = 2 * time.Minute

// check looks whether each durable record is somewhere.
func (d *tablet) check(ctx context.Context, after string) {
	d.f.trail.count("looks at ledgers")
	d.eventually(ctx, "after "+after, func() error { return d.lost(ctx) })
}

// eventually waits until ok is nil, and tells of the error that stays.
func (d *tablet) eventually(ctx context.Context, what string, ok func() error) {
	for end := time.Now().Add(ledgerPatience); ; {
		err := ok()
		switch {
		case err == nil:
			return
		case time.Now().After(end):
			d.f.found("%s, %s: %v", d.id, what, err)
			return
		case !pause(ctx, 500*time.Millisecond):
			d.f.found("%s, %s, when the patience was over: %v", d.id, what, err)
			return
		}
	}
}

// withPeople has the records in the folders of people.
func (d *tablet) withPeople() (content, error) {
	c := content{}
	for _, dir := range d.attic {
		one, err := read(dir)
		if err != nil {
			return nil, err
		}
		c.add(one)
	}
	return c, nil
}

// audit looks at each tablet when all is at rest: the ledger, the lineage of all
// backups, and the newest backups, which are restored.
func (f *fleet) audit(ctx context.Context) {
	for _, d := range f.tablets {
		d.check(ctx, "the end")
		for _, t := range tenants {
			if err := d.auditVault(ctx, t); err != nil {
				f.found("%s: look at its backups of tenant %s: %v", d.id, t.id, err)
			}
		}
	}
	for _, k := range oddities {
		if f.wants(k.name) && f.trail.counted("oddity: "+k.name) == 0 {
			f.found("it never happened: %s", k.name)
		}
	}
	if f.trail.counted(withEmpty) == 0 {
		f.found("there were no %s", withEmpty)
	}
}

// auditVault looks at the backups of the tablet in one vault.
func (d *tablet) auditVault(ctx context.Context, t *tenant) error {
	all, err := d.list(ctx, t)
	if err != nil {
		return err
	}
	people, err := d.withPeople()
	if err != nil {
		return err
	}
	forks := d.f.plane.forks(d.id)
	newest, named, heads := map[string]content{}, map[string]bool{}, 0
	last, continued := map[string]string{}, map[string]bool{}
	branches := []string{}
	for _, b := range all {
		c, err := d.backed(ctx, t, b.Backup)
		if err != nil {
			return err
		}
		for file, n := range newest[b.Branch] {
			if c[file] < n && people[file] < n {
				d.f.found("%s: backup %s continues its branch and has %d of %d records of %s: a fork that nobody sees", d.id, b.Backup, c[file], n, file)
			}
		}
		if newest[b.Branch] == nil {
			newest[b.Branch], branches = content{}, append(branches, b.Branch)
		}
		newest[b.Branch].add(c)
		named[b.Branch] = named[b.Branch] || forks[b.Backup]
		last[b.Branch], continued[b.Parent] = b.Backup, true
		if b.Head {
			heads++
			if err := d.restoresExactly(ctx, t, b.Backup, c); err != nil {
				return err
			}
		}
	}
	for _, b := range branches {
		if len(branches) > 1 && !named[b] && !continued[last[b]] {
			d.f.found("%s: the vault of %s has %d branches, and no report told of branch %s", d.id, t.id, len(branches), b)
		}
	}
	if heads > 1 {
		d.f.found("%s: %d newest backups in the vault of %s, although each fork was decided", d.id, heads, t.id)
	}
	d.f.trail.add("backups of tablets", len(all))
	d.f.trail.add("branches of tablets", len(branches))
	return nil
}

// restoresExactly restores a backup with the command line, and compares each record.
func (d *tablet) restoresExactly(ctx context.Context, t *tenant, backup string, want content) error {
	dir := filepath.Join(d.f.disk, "restored-"+backup)
	if _, err := d.f.ask(ctx, t, "restore", "--instance", d.id, "--backup", backup, dir); err != nil {
		return err
	}
	got, err := read(dir)
	if err != nil {
		return err
	}
	if !maps.Equal(got, want) {
		d.f.found("%s: backup %s restores as %v, and has %v", d.id, backup, got, want)
	}
	d.f.trail.count("newest backups restored by hand")
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !isRecords(e.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		owner := t.id
		if strings.HasPrefix(e.Name(), "t-") {
			owner = templateOwner
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			if line != record(owner, d.id, e.Name(), n) {
				d.f.found("%s: record %d of %s in backup %s is %q", d.id, n, e.Name(), backup, line)
			}
		}
		return nil
	})
}

// record is the text of one record, as testdata/phone writes it.
func record(owner, instance, file string, n int) string {
	return fmt.Sprintf("%-*s\n", recordSize-1, fmt.Sprintf("%s %s %s %d", owner, instance, file, n))
}
