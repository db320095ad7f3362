package vault

import (
	"os"
	"strconv"
	"testing"

	"holdfast/internal/hostid"
	"holdfast/internal/obs"
)

// TestProcessEnded: only a process that has certainly ended is said to have ended.
func TestProcessEnded(t *testing.T) {
	me := observe(SessionOptions{Host: "h", Identity: hostid.Identity{ID: "an identity", Boots: []string{"before", "now"}}})
	if me.Boot == "" || me.Namespaces == "" || me.Start == 0 || !me.is(me.process) {
		t.Fatalf("this process is not known well enough: %+v", me)
	}
	me.Machine = "a machine"
	parent := me.process
	parent.PID = os.Getppid()
	var err error
	if parent.Start, _, err = procStat(strconv.Itoa(parent.PID)); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*process)) process {
		p := parent
		f(&p)
		return p
	}
	for name, c := range map[string]struct {
		p     process
		host  string
		ended bool
	}{
		"living":                              {parent, "h", false},
		"number used again":                   {change(func(p *process) { p.Start-- }), "h", true},
		"no such process":                     {change(func(p *process) { p.PID = 1 << 22 }), "h", true},
		"another state folder of this boot":   {change(func(p *process) { p.PID, p.Identity = 1<<22, "another" }), "h", true},
		"another namespace":                   {change(func(p *process) { p.PID, p.Namespaces = 1<<22, "pid:[1] time:[1]" }), "h", false},
		"unknown namespace":                   {change(func(p *process) { p.PID, p.Namespaces = 1<<22, "" }), "h", false},
		"group of processes":                  {change(func(p *process) { p.PID = -1 }), "h", false},
		"unknown start":                       {change(func(p *process) { p.Start = 0 }), "h", false},
		"earlier boot":                        {change(func(p *process) { p.Boot = "before" }), "h", true},
		"earlier boot, unknown identity":      {change(func(p *process) { p.Boot, p.Identity = "before", "" }), "h", false},
		"earlier boot, another identity":      {change(func(p *process) { p.Boot, p.Identity = "before", "another" }), "h", false},
		"earlier boot, no machine id then":    {change(func(p *process) { p.Boot, p.Machine = "before", "" }), "h", false},
		"another machine":                     {change(func(p *process) { p.Boot, p.Machine = "before", "x" }), "h", false},
		"a clone with another name":           {change(func(p *process) { p.Boot = "before" }), "another", false},
		"a live clone that has all in common": {change(func(p *process) { p.Boot = "of the clone" }), "h", false},
		"unknown boot":                        {change(func(p *process) { p.Boot = "" }), "h", false},
	} {
		if got := me.ended(c.p, c.host); got != c.ended {
			t.Errorf("%s: ended %v, want %v", name, got, c.ended)
		}
	}
	container := me
	container.Machine = ""
	if !container.ended(change(func(p *process) { p.Boot, p.Machine = "before", "" }), "h") {
		t.Error("a container without a machine id, with a state folder, does not know its earlier boot")
	}
	bare := observe(SessionOptions{Host: "h"})
	if bare.ended(change(func(p *process) { p.Boot, p.Identity = "before", "" }), "h") {
		t.Error("who has no identity says that somebody of an earlier boot has ended")
	}
	if !me.is(change(func(p *process) { *p = me.process; p.Identity = "" })) {
		t.Error("a session that this process began without an identity is not its own")
	}
	unknown := me
	unknown.Boot = ""
	if unknown.is(unknown.process) || unknown.ended(parent, "h") {
		t.Error("who does not know the boot knows an end")
	}
}

// TestSessionsOfEarlierBoots: the next backup of a host removes the session of a boot that
// its state folder has lived through, also in a container without a machine id, and never
// the session of a machine that has machine id, name and identity in common with it.
func TestSessionsOfEarlierBoots(t *testing.T) {
	id, err := ParseIdentity([]byte(fuzzIdentity))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		machine, identity, boot string // of the session
		gone                    bool
	}{
		"of this host":                   {"", "i", "an earlier boot", true},
		"of a clone":                     {"", "i", "the clone's boot", false},
		"of another host of that name":   {"", "j", "an earlier boot", false},
		"of a host without state folder": {"", "", "an earlier boot", false},
		// it has one now: it may be another
		"of this host, without machine id": {"-", "i", "an earlier boot", false},
	} {
		v, err := Create(t.Context(), obs.NewMemory(), "tenant", nil, nil, id)
		if err != nil {
			t.Fatal(err)
		}
		o := SessionOptions{Host: "h", Identity: hostid.Identity{ID: "i", Boots: []string{"an earlier boot", "this"}}}
		me := observe(o).process
		of := me
		of.PID, of.Start, of.Boot, of.Identity = 4711, 4711, c.boot, c.identity
		if c.machine == "-" {
			if me.Machine == "" {
				continue
			}
			of.Machine = ""
		}
		s, err := v.putSession(t.Context(), kindWriter, o, of)
		if err != nil {
			t.Fatal(err)
		}
		running.Delete(s.id) // of another process
		next, err := v.BeginSession(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := v.Sessions(t.Context())
		if err != nil || (len(all) == 0) != c.gone {
			t.Errorf("%s: %d sessions are left, %v", name, len(all), err)
		}
	}
}
