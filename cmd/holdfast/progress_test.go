package main

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMeter(t *testing.T) {
	start := time.Unix(1000, 0)
	m := newMeter(start)
	for _, c := range []struct {
		after       time.Duration
		done, total int64
		want        string
	}{
		{0, 0, 0, "0 B  0 B/s"},
		{time.Second, 1 << 20, 0, "1.0 MiB  1.0 MiB/s"},
		{2 * time.Second, 2 << 20, 10 << 20, "2.0 MiB of 10.0 MiB  1.0 MiB/s  0:08 left"},
		// A stall longer than the window shows as one, and no time left is made up.
		{20 * time.Second, 2 << 20, 10 << 20, "2.0 MiB of 10.0 MiB  0 B/s"},
		// The rate goes back to the last look before the window.
		{21 * time.Second, 10 << 20, 10 << 20, "10.0 MiB  431.2 KiB/s"},
	} {
		if got := m.text(start.Add(c.after), c.done, c.total); got != c.want {
			t.Errorf("after %v: %q, want %q", c.after, got, c.want)
		}
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func TestProgressOnPipe(t *testing.T) {
	var out, err buffer
	for _, a := range []*app{
		{world: world{stdout: &out, stderr: &err}},
		{world: world{stdout: &out, stderr: &err, terminal: true}, quiet: true},
		{world: world{stdout: &out, stderr: &err, terminal: true}, quiet: true, json: true},
	} {
		p := a.newProgress("backup")
		p.expect(100)
		p.set(progressLine{Bytes: 50})
		p.finish()
		p.finish()
	}
	if out.b.Len() > 0 || err.b.Len() > 0 {
		t.Errorf("stdout %q, stderr %q, want nothing", out.b.String(), err.b.String())
	}
}

func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		a := &app{world: world{stdout: &out, stderr: &err, terminal: true}, json: true}
		p := a.newProgress("backup")
		p.set(progressLine{Bytes: 1}) // too soon
		time.Sleep(linePause)
		p.expect(100)
		p.set(progressLine{Bytes: 2, Files: 1})
		p.set(progressLine{Bytes: 3, Files: 1}) // too soon
		time.Sleep(linePause)
		p.set(progressLine{Bytes: 4, Files: 2})
		p.finish()
		p.set(progressLine{Bytes: 5})
		var got []progressLine
		for d := json.NewDecoder(&out); d.More(); {
			var l progressLine
			if err := d.Decode(&l); err != nil {
				t.Fatal(err)
			}
			got = append(got, l)
		}
		want := []progressLine{
			{Type: "progress", Bytes: 2, Total: 100, Files: 1},
			{Type: "progress", Bytes: 4, Total: 100, Files: 2},
		}
		if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("lines %+v, want %+v", got, want)
		}
		if err.Len() > 0 {
			t.Errorf("stderr %q, want nothing", err.String())
		}
	})
}

func TestProgressOnTerminal(t *testing.T) {
	var out, err buffer
	a := &app{world: world{stdout: &out, stderr: &err, terminal: true, outTerminal: true}}
	p := a.newProgress("backup")
	p.expect(100 << 20)
	p.set(progressLine{Bytes: 50 << 20})
	shows := func(words string) bool {
		err.mu.Lock()
		defer err.mu.Unlock()
		return bytes.Contains(err.b.Bytes(), []byte(words))
	}
	for end := time.Now().Add(10 * time.Second); !shows("50.0 MiB of 100.0 MiB"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("stderr %q shows no bar", err.b.String())
		}
	}
	if err := p.print("a line"); err != nil {
		t.Fatal(err)
	}
	p.set(progressLine{Bytes: 200 << 20}) // more than expected must not end the bar
	p.finish()
	if !shows("backup") || !shows("a line\n") {
		t.Errorf("stderr %q lacks the bar's name or the line", err.b.String())
	}
	if out.b.Len() > 0 {
		t.Errorf("stdout %q, want nothing", out.b.String())
	}
}
