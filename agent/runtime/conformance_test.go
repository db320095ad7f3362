package runtime_test

import (
	"context"
	"strings"
	"testing"

	"holdfast/agent/runtime"
	"holdfast/agent/runtime/runtimetest"
)

// do calls a verb that must work.
func do(t *testing.T, what string, verb func(context.Context) error) {
	t.Helper()
	if err := verb(t.Context()); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// down is a power-down from any state of the instance.
func down(i runtime.Instance) func(context.Context) error {
	return func(ctx context.Context) error { return i.PowerDown(ctx, nil) }
}

func TestNoneConforms(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		n, err := runtime.New(runtime.Config{Kind: runtime.KindNone})
		if err != nil {
			t.Fatal(err)
		}
		if n.Holds() {
			t.Error("none claims to hold")
		}
		return runtimetest.Subject{Instance: n}
	})
}

func TestNewRefuses(t *testing.T) {
	for what, cfg := range map[string]runtime.Config{
		`"vm"`:         {Kind: "vm"},
		`"a/../b"`:     {Kind: "docker", Docker: runtime.DockerConfig{Container: "a/../b"}},
		`ftp://x`:      {Kind: "docker", Docker: runtime.DockerConfig{Container: "a", Host: "ftp://x"}},
		`power down`:   {Kind: "exec", Exec: runtime.ExecConfig{Instance: "i", Freeze: []string{"a"}, Thaw: []string{"b"}}},
		`start`:        {Kind: "exec", Exec: runtime.ExecConfig{Instance: "i", Freeze: []string{"a"}, Thaw: []string{"b"}, PowerDown: []string{"c"}, Start: []string{""}}},
		"instance's i": {Kind: "exec"},
	} {
		if _, err := runtime.New(cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
