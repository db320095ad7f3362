package vault

import (
	"os"
	"strconv"
	"testing"
)

func TestProcessEnded(t *testing.T) {
	me := thisProcess()
	if me.Boot == "" || me.Namespaces == "" || me.Start == 0 || !me.is(me) {
		t.Fatalf("this process is not known well enough: %+v", me)
	}
	me.Machine = "a machine"
	parent := me
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
		"living":                        {parent, "h", false},
		"number used again":             {change(func(p *process) { p.Start-- }), "h", true},
		"no such process":               {change(func(p *process) { p.PID = 1 << 22 }), "h", true},
		"another namespace":             {change(func(p *process) { p.PID, p.Namespaces = 1<<22, "pid:[1] time:[1]" }), "h", false},
		"unknown namespace":             {change(func(p *process) { p.PID, p.Namespaces = 1<<22, "" }), "h", false},
		"group of processes":            {change(func(p *process) { p.PID = -1 }), "h", false},
		"unknown start":                 {change(func(p *process) { p.Start = 0 }), "h", false},
		"earlier boot":                  {change(func(p *process) { p.Boot = "before" }), "h", true},
		"earlier boot, unknown machine": {change(func(p *process) { p.Boot, p.Machine = "before", "" }), "h", false},
		"another machine":               {change(func(p *process) { p.Boot, p.Machine = "before", "x" }), "h", false},
		"a clone of this machine":       {change(func(p *process) { p.Boot = "before" }), "another", false},
		"unknown boot":                  {change(func(p *process) { p.Boot = "" }), "h", false},
	} {
		if got := c.p.ended(c.host, me, "h"); got != c.ended {
			t.Errorf("%s: ended %v, want %v", name, got, c.ended)
		}
	}
	unknown := me
	unknown.Boot = ""
	if unknown.is(unknown) || parent.ended("h", unknown, "h") {
		t.Error("who does not know the boot knows an end")
	}
}
