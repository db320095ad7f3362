package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/journal"
	"holdfast/internal/hostid"
)

// opened gives the site a state folder that has held an instance.
func (s *site) opened() (identity string) {
	s.t.Helper()
	state := filepath.Join(s.dir, "state")
	found, err := hostid.Open(state, hostid.Journal{})
	if err != nil || found.Copied != nil {
		s.t.Fatal(found.Copied, err)
	}
	j, err := journal.Open(filepath.Join(state, "journal.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := j.SetOwner(found.ID); err != nil {
		s.t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(state, "held"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.put("state/held/phone-1", `{"id":"job-1","instance":"phone-1","hold":true}`)
	return found.ID
}

// copied makes the state folder a copy of itself.
func (s *site) copied() {
	s.t.Helper()
	state := filepath.Join(s.dir, "state")
	if out, err := exec.Command("cp", "-a", state, state+"-copy").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(state, state+"-original"); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(state+"-copy", state); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) adopt(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(append([]string{"--config", s.path(), "adopt"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func (s *site) identity() string {
	s.t.Helper()
	var k struct{ ID string }
	data, err := os.ReadFile(filepath.Join(s.dir, "state", hostid.File))
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return k.ID
}

func TestAdoptCommand(t *testing.T) {
	t.Run("usage", func(t *testing.T) {
		s := newSite(t)
		for _, args := range [][]string{nil, {"--new", "--take-over"}} {
			if code, out, errs := s.adopt(args...); code != exitUsage || out != "" || !strings.Contains(errs, "--take-over") {
				t.Errorf("%q: exit code %d, %s%s", args, code, out, errs)
			}
		}
		var out, errs bytes.Buffer
		if code := run([]string{"status", "--new"}, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "adopt") {
			t.Errorf("exit code %d, %s", code, errs.String())
		}
		if code, _, errs := s.adopt("--new"); code != exitFailed || !strings.Contains(errs, "state_dir") {
			t.Errorf("without a state folder: exit code %d, %s", code, errs)
		}
		s.put("holdfast.yaml", "nonsense: 1\n")
		if code, _, errs := s.adopt("--new"); code != exitConfig || !strings.Contains(errs, "holdfast.yaml:1") {
			t.Errorf("without a configuration: exit code %d, %s", code, errs)
		}
	})
	t.Run("take over", func(t *testing.T) {
		s := newSite(t)
		id := s.opened()
		s.copied()
		s.put("tokens", "a fault of another file\n")
		code, out, errs := s.adopt("--take-over")
		if code != exitDone || !strings.Contains(out, id) || !strings.Contains(out, "compared with this machine at the next start: phone-1\n") || s.identity() != id {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
		found, err := hostid.Open(filepath.Join(s.dir, "state"), hostid.Journal{Owner: id, Used: true})
		if err != nil || found.Copied != nil {
			t.Errorf("%v, %v", found.Copied, err)
		}
	})
	t.Run("new", func(t *testing.T) {
		s := newSite(t)
		id := s.opened()
		s.copied()
		code, out, errs := s.adopt("--new")
		if code != exitDone || !strings.Contains(out, "left as they are on this machine: phone-1\n") || s.identity() == id {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
		for _, name := range []string{"journal.db", "held"} {
			if !strings.Contains(out, "set aside: "+filepath.Join(s.dir, "state", name+".copied-"+id)+"\n") {
				t.Errorf("%s: %s", name, out)
			}
			if _, err := os.Lstat(filepath.Join(s.dir, "state", name)); !os.IsNotExist(err) {
				t.Errorf("%s is there: %v", name, err)
			}
		}
	})
	t.Run("while an agent runs", func(t *testing.T) {
		s := newSite(t)
		id := s.opened()
		j, err := journal.Open(filepath.Join(s.dir, "state", "journal.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		for _, flag := range []string{"--new", "--take-over"} {
			if code, out, errs := s.adopt(flag); code != exitFailed || out != "" || !strings.Contains(errs, "holdfastd stop") || s.identity() != id {
				t.Errorf("%s: exit code %d, %s%s", flag, code, out, errs)
			}
		}
	})
	t.Run("a damaged journal", func(t *testing.T) {
		s := newSite(t)
		id := s.opened()
		s.put("state/journal.db", strings.Repeat("no journal", 5000))
		if code, _, errs := s.adopt("--take-over"); code != exitFailed || !strings.Contains(errs, "--new") || s.identity() != id {
			t.Errorf("take over: exit code %d, %s", code, errs)
		}
		if code, out, errs := s.adopt("--new"); code != exitDone || s.identity() == id {
			t.Errorf("new: exit code %d, %s%s", code, out, errs)
		}
	})
}

// TestAdoptKeepsTheConfiguration: the configuration
// that a later start needs for its recovery stays.
func TestAdoptKeepsTheConfiguration(t *testing.T) {
	s := newSite(t)
	s.opened()
	s.put("state/"+lastConfiguration, "host_id: h1\n")
	if code, out, errs := s.adopt("--new"); code != exitDone {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "state", lastConfiguration)); err != nil {
		t.Error(err)
	}
}
