package testbed_test

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// TestClock: a program that was built with the overlay follows its
// clock while it runs, and another one goes by the kernel's.
func TestClock(t *testing.T) {
	dir := t.TempDir()
	overlay, err := testbed.SkewedClocks(dir)
	if err != nil {
		t.Fatal(err)
	}
	const program = `package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	for range 2 {
		fmt.Println(time.Now().Unix())
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
}
`
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "clock")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testbed.Build(binary, source, "-overlay", overlay); err != nil {
		t.Fatal(err)
	}
	clock := testbed.NewClock(t)
	const hour = 3600
	clock.Set(hour * time.Second)
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), clock.Env()...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ahead := func() int64 {
		text := make([]byte, 64)
		n, err := out.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		sec, err := strconv.ParseInt(strings.TrimSpace(string(text[:n])), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int64(math.Round(float64(sec-time.Now().Unix()) / hour))
	}
	if got := ahead(); got != 1 {
		t.Errorf("the clock is %d hours ahead, want 1", got)
	}
	clock.Set(-2 * hour * time.Second)
	if _, err := in.Write([]byte{'\n'}); err != nil {
		t.Fatal(err)
	}
	if got := ahead(); got != -2 {
		t.Errorf("the clock is %d hours ahead, want -2", got)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
