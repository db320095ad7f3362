package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/internal/testbed"
)

// asProgram in the environment makes this test's program holdfast under any name: what
// the demonstration starts is called as the file is, and would run the tests again.
const asProgram = "HOLDFAST_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	testscript.Main(checked{m}, map[string]func(){"holdfast": main})
}

// checked runs the tests and looks for goroutines that outlive them.
type checked struct{ m *testing.M }

func (c checked) Run() int {
	code := c.m.Run()
	if code != 0 {
		return code
	}
	if err := testbed.FindLeak(); err != nil {
		fmt.Fprintln(os.Stderr, "a goroutine outlives the tests:", err)
		code = 1
	}
	return code
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOLDFAST_STORE", "file://"+filepath.Join(e.WorkDir, "store"))
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+".cache") // beside the folder that scripts list
			e.Setenv("XDG_STATE_HOME", e.WorkDir+".state")
			e.Setenv("HOLDFAST_KEY", filepath.Join(e.WorkDir, "host.key"))
			return os.Mkdir(filepath.Join(e.WorkDir, "store"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"interrupted": interruptedAt,
			"agent":       serveAgent,
			"real-agent":  runAgent,
			"json":        jsonDocuments,
			"same-tree":   sameTree,
			"halve":       halve,
			"swap":        swap,
			"delete":      deleteFiles,
			"flip":        flip,
			"sample":      writeSample,
			"setout":      setOut,
			"field":       setField,
			"listing":     listing,
			"kept":        kept,
		},
	})
}

// exits CODE PROGRAM ARG… runs the program, which must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// interrupted PROGRAM ARG… runs the program, sends it SIGINT once it
// has printed a line on stdout, and checks that it ends with 130.
func interruptedAt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: interrupted PROGRAM ARG…")
	}
	program, err := exec.LookPath(args[0])
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, k := range []string{"HOLDFAST_SOCKET", "TMPDIR"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	cmd.Stderr = ts.Stderr()
	ts.Check(cmd.Start())
	defer func() { _ = cmd.Process.Kill() }() // for what goes wrong below
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), line)
	ts.Check(err)
	ts.Check(cmd.Process.Signal(os.Interrupt))
	_, err = io.Copy(ts.Stdout(), lines)
	ts.Check(err)
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitInterrupted {
		ts.Fatalf("ended with %v, want exit code %d", err, exitInterrupted)
	}
}

// json FILE N checks that the file (or stdout, stderr) holds N JSON documents; N may be "some".
func jsonDocuments(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json FILE N")
	}
	d := json.NewDecoder(bytes.NewReader([]byte(ts.ReadFile(args[0]))))
	n := 0
	for ; ; n++ {
		var v map[string]any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
	}
	if args[1] == "some" && n > 0 {
		return
	}
	if strconv.Itoa(n) != args[1] {
		ts.Fatalf("%s holds %d JSON documents, want %s", args[0], n, args[1])
	}
}

// same-tree A B compares content and metadata of two trees.
func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same-tree A B")
	}
	_, err := difference(context.Background(), ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	if neg != (err != nil) {
		ts.Fatalf("difference: %v", err)
	}
}

// matches returns the files that a pattern names, at least n of them, sorted.
func matches(ts *testscript.TestScript, pattern string, n int) []string {
	files, err := filepath.Glob(ts.MkAbs(pattern))
	ts.Check(err)
	if len(files) < n {
		ts.Fatalf("%s names %d files, need %d", pattern, len(files), n)
	}
	slices.Sort(files)
	return files
}

// halve PATTERN cuts the second half off each file.
func halve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: halve PATTERN")
	}
	for _, file := range matches(ts, args[0], 1) {
		info, err := os.Stat(file)
		ts.Check(err)
		ts.Check(os.Chmod(file, 0o644))
		ts.Check(os.Truncate(file, info.Size()/2))
	}
}

// swap PATTERN exchanges the names of the first and the last file.
func swap(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: swap PATTERN")
	}
	files := matches(ts, args[0], 2)
	a, b := files[0], files[len(files)-1]
	ts.Check(os.Rename(a, a+".swap"))
	ts.Check(os.Rename(b, a))
	ts.Check(os.Rename(a+".swap", b))
}

// delete PATTERN removes the files.
func deleteFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: delete PATTERN")
	}
	for _, file := range matches(ts, args[0], 1) {
		ts.Check(os.Remove(file))
	}
}

// flip PATTERN OFFSET inverts one byte of each file; an OFFSET below 0 counts from the end.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip PATTERN OFFSET")
	}
	off, err := strconv.Atoi(args[1])
	ts.Check(err)
	for _, file := range matches(ts, args[0], 1) {
		data, err := os.ReadFile(file)
		ts.Check(err)
		i := off
		if i < 0 {
			i += len(data)
		}
		data[i] ^= 0xff
		ts.Check(os.Chmod(file, 0o644))
		ts.Check(os.WriteFile(file, data, 0o644))
	}
}

// sample DIR fills a new folder with the files of the demo.
func writeSample(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sample DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(fillVolume(dir))
}

// setout NAME sets a variable to the last line of the last command's stdout.
func setOut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: setout NAME")
	}
	last := ""
	s := bufio.NewScanner(bytes.NewReader([]byte(ts.ReadFile("stdout"))))
	for s.Scan() {
		last = s.Text()
	}
	if last == "" {
		ts.Fatalf("nothing on stdout")
	}
	ts.Setenv(args[0], last)
}

// field KEY NAME sets a variable to the text under a key
// of the JSON document on the last command's stdout.
func setField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field KEY NAME")
	}
	var document map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &document))
	text, ok := document[args[0]].(string)
	if !ok {
		ts.Fatalf("stdout has no text under %s", args[0])
	}
	ts.Setenv(args[1], text)
}

// kept NAME sets a variable to the only folder that a demo left.
func kept(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: kept NAME")
	}
	folders := matches(ts, ".tmp/holdfast-demo-*", 1)
	if len(folders) != 1 {
		ts.Fatalf("several demos were kept: %q", folders)
	}
	ts.Setenv(args[0], folders[0])
}

// listing DIR NAME… checks that the folder holds exactly these names.
func listing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: listing DIR NAME…")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		if e.Name() != ".tmp" { // testscript's own
			got = append(got, e.Name())
		}
	}
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(got, want) {
		ts.Fatalf("%s holds %q, want %q", args[0], got, want)
	}
}
