// Command powercut is everything that a virtual machine has around an agent: the instances,
// whose state only a power cut takes away, the control plane, and a source of commands without
// end. It prints its observations, with "FAIL" before each broken promise. With FINAL=1 it lets
// everything end, looks once more, and ends. ENTROPY is for the kernel (testbed.SavedMachine).
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"holdfast/agent/model"
	"holdfast/agent/report"
)

const (
	completed = "holdfast.backup.completed"
	failed    = "holdfast.backup.failed"
	released  = "holdfast.instance.released"
)

var began = time.Now() // of this life

// bases is how many base snapshots the agent says it keeps.
func bases() int {
	res, err := http.Get("http://127.0.0.1:9477/metrics")
	must(err)
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	must(err)
	m := regexp.MustCompile(`(?m)^holdfast_base_snapshots (\d+)$`).FindSubmatch(page)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(string(m[1]))
	must(err)
	return n
}

func say(format string, args ...any) {
	fmt.Printf("%5.2f %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func must(err error) {
	if err != nil {
		say("FAIL: %v", err)
		os.Exit(1)
	}
}

// durable writes a file so that a power cut leaves it whole.
func durable(path string) {
	f, err := os.Create(path)
	must(err)
	must(f.Sync())
	must(f.Close())
	syncDir(filepath.Dir(path))
}

func syncDir(dir string) {
	d, err := os.Open(dir)
	must(err)
	must(d.Sync())
	must(d.Close())
}

// instance writes numbers while it runs. That it is down survives a
// power cut; that it is frozen does not.
type instance struct {
	id    string
	mu    sync.Mutex
	state string
	runs  int               // how often it was let run
	acked bool              // a completed report of it was taken since it runs
	jobs  map[string]bool   // that ended
	said  map[string]string // job -> the last that was said of it
	tasks map[string]string // id of a command -> its task
	ended int               // jobs that were released or failed
	last  string            // event of the last one
	news  chan struct{}
}

func (i *instance) volume() string { return "/disk/volumes/" + i.id + "/data" }
func (i *instance) down() string   { return "/disk/down/" + i.id }

// goes is another run; their number survives a power cut.
func (i *instance) goes() {
	i.state = "running"
	i.runs++
	path := "/disk/runs-" + i.id
	must(os.WriteFile(path+".new", []byte(strconv.Itoa(i.runs)), 0o600))
	f, err := os.Open(path + ".new")
	must(err)
	must(f.Sync())
	must(f.Close())
	must(os.Rename(path+".new", path))
	syncDir("/disk")
}

func (i *instance) write() {
	f, err := os.OpenFile(i.volume()+"/records", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	for n := 0; ; n++ {
		i.mu.Lock()
		if i.state == "running" {
			_, err := fmt.Fprintf(f, "%d.%d\n", time.Now().UnixNano(), n)
			must(err)
			must(f.Sync())
		}
		i.mu.Unlock()
		time.Sleep(100 * time.Millisecond)
	}
}

// act is the instance's runtime.
func (i *instance) act(verb string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case verb == "freeze" && i.state == "running":
		i.state = "frozen"
	case verb == "thaw" && i.state == "frozen":
		i.goes()
	case verb == "power-down" && i.state != "stopped":
		if !i.acked {
			say("FAIL release-last: %s is powered down before the control plane took its report", i.id)
		}
		i.state = "stopped"
		durable(i.down())
	}
	if verb == "state" {
		return fmt.Sprint(i.state, " run-", i.runs)
	}
	return i.state
}

// take is the control plane's side of a report.
func (i *instance) take(e model.Event, job string, old bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if before := i.said[job]; !old && before != e.Type && (before == completed && e.Type != released && e.Type != failed || i.jobs[job]) {
		say("FAIL journal-first: %s of %s %s after %s: the journal went back", e.Type, i.id, job, before)
	}
	i.said[job] = e.Type
	switch e.Type {
	case completed:
		i.acked = true
	case released, failed:
		if i.jobs[job] {
			return
		}
		if e.Type == released && !old && i.state != "stopped" {
			say("FAIL: %s is said to be released, and is %s", i.id, i.state)
		}
		i.jobs[job], i.last = true, e.Type
		i.ended++
		i.acked = false
		select {
		case i.news <- struct{}{}:
		default:
		}
	}
}

// world is what all instances share.
type world struct {
	instances map[string]*instance
	mu        sync.Mutex
	log       *os.File
	client    http.Client
	api       string
	token     string
}

// line is of the control plane's log: an event, or (without Type) that a command is a task.
type line struct{ Type, Instance, Job, Request, Task string }

func (w *world) note(l line) {
	b, err := json.Marshal(l)
	must(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.log.Write(append(b, '\n'))
	must(errors.Join(err, w.log.Sync()))
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e, _, err := report.Decode(body)
	must(err)
	if mathrand.IntN(10) == 0 {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var data struct {
		Job    string `json:"job_id"`
		Reason string `json:"reason"`
	}
	must(json.Unmarshal(e.Data, &data))
	if e.Type != "holdfast.backup.progress" {
		say("took %s of %s %s %s", e.Type, e.Instance, data.Job, data.Reason)
		w.note(line{Type: e.Type, Instance: e.Instance, Job: data.Job})
		w.instances[e.Instance].take(e, data.Job, false)
	}
	rw.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(rw, `{"error_code":"0","error_msg":"OK"}`) // the agent may be gone
}

// runtime answers lines "verb id" with the state.
func (w *world) runtime(l net.Listener) {
	for {
		c, err := l.Accept()
		must(err)
		go func() {
			defer c.Close()
			s := bufio.NewScanner(c)
			if s.Scan() {
				verb, id, _ := strings.Cut(s.Text(), " ")
				fmt.Fprintln(c, w.instances[id].act(verb))
			}
		}()
	}
}

func (w *world) backup(i *instance, request string) {
	for {
		req, err := http.NewRequest(http.MethodPost, w.api, strings.NewReader(fmt.Sprintf(`{"instance_ids":[%q]}`, i.id)))
		must(err)
		req.Header.Set("X-Auth-Token", w.token)
		req.Header.Set("X-Request-Id", request)
		res, err := w.client.Do(req)
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				var answer struct {
					Data struct {
						Task string `json:"task_id"`
					}
				}
				must(json.Unmarshal(body, &answer))
				if before := i.tasks[request]; before == "" {
					i.tasks[request] = answer.Data.Task
					w.note(line{Instance: i.id, Request: request, Task: answer.Data.Task})
				} else if before != answer.Data.Task {
					say("FAIL same-command-once: %s is task %s, and was %s", request, answer.Data.Task, before)
				}
				return
			}
			say("backup of %s: %s %s", i.id, res.Status, body)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// check compares the newest backup of an instance that is down with its storage.
func (w *world) check(i *instance) {
	dest := "/tmp/restored-" + i.id
	must(os.RemoveAll(dest))
	c := exec.Command("/etc/holdfast/holdfast", "restore", "--instance", i.id, dest)
	if out, err := c.CombinedOutput(); err != nil {
		say("FAIL: restore %s: %v\n%s", i.id, err, out)
		return
	}
	if out, err := exec.Command("diff", "-r", i.volume(), dest).CombinedOutput(); err != nil {
		say("FAIL nothing-lost: %s\n%s", i.id, out)
		return
	}
	must(os.RemoveAll(dest))
	say("checked %s", i.id)
}

// command backs the instance up, checks the backup and starts it
// again, for ever or until it is down.
func (w *world) command(i *instance, final bool) {
	for {
		i.mu.Lock()
		state, last, n := i.state, i.last, i.ended
		i.mu.Unlock()
		if state == "stopped" && last == released {
			w.check(i)
			if final {
				return
			}
			i.mu.Lock()
			must(os.Remove(i.down()))
			syncDir(filepath.Dir(i.down()))
			i.last = ""
			i.goes()
			i.mu.Unlock()
		}
		w.backup(i, fmt.Sprintf("%s-%d", i.id, n))
		for over := false; !over; {
			<-i.news
			i.mu.Lock()
			over = i.ended > n
			i.mu.Unlock()
		}
	}
}

// reseed gives the kernel's random numbers what sets this life of a
// saved machine apart from its others.
func reseed(entropy string) {
	bits, err := hex.DecodeString(entropy)
	must(err)
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	must(err)
	pool := struct {
		bits, size int32
		data       [32]byte
	}{bits: 256, size: 32, data: [32]byte(bits)}
	const add, take = 0x40085203, 0x5207 // RNDADDENTROPY, RNDRESEEDCRNG
	_, _, adding := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), add, uintptr(unsafe.Pointer(&pool)))
	_, _, taking := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), take, 0)
	if adding != 0 || taking != 0 {
		say("FAIL: reseed: %v, %v", adding, taking)
	}
	must(f.Close())
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(err)
	say("boot %s", bytes.TrimSpace(id))
}

func main() {
	reseed(os.Getenv("ENTROPY"))
	final := os.Getenv("FINAL") != ""
	must(os.MkdirAll("/disk", 0o755))
	must(syscall.Mount("/dev/vda", "/disk", "btrfs", 0, ""))
	for name, mode := range map[string]os.FileMode{"tokens": 0o600, "host.key": 0o600, "key.pem": 0o600, "holdfast": 0o700, "holdfastd": 0o700} {
		must(os.Chmod("/etc/holdfast/"+name, mode))
	}
	if _, err := os.Stat("/disk/prepared"); err != nil {
		must(os.RemoveAll("/disk/store"))
		must(os.MkdirAll("/disk/store", 0o700))
		must(os.MkdirAll("/disk/down", 0o755))
		if out, err := exec.Command("/etc/holdfast/holdfast", "vault", "create").CombinedOutput(); err != nil {
			say("FAIL: create the vault: %v\n%s", err, out)
		}
		syscall.Sync() // the mark is durable by itself, without what stands beside it
		durable("/disk/prepared")
	}
	w := &world{instances: map[string]*instance{}, api: "https://127.0.0.1:8443/v1/instances/backup", token: os.Getenv("TOKEN")}
	// a loopback, and a test
	w.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	for n := range 3 {
		i := &instance{id: fmt.Sprintf("phone-%d", n+1), state: "running", jobs: map[string]bool{}, said: map[string]string{}, tasks: map[string]string{}, news: make(chan struct{}, 1)}
		w.instances[i.id] = i
		if b, err := os.ReadFile("/disk/runs-" + i.id); err == nil {
			i.runs, err = strconv.Atoi(string(b))
			must(err)
		}
		if _, err := os.Stat(i.down()); err == nil {
			i.state = "stopped"
		}
		must(os.MkdirAll(i.volume(), 0o755))
		if _, err := os.Stat(i.volume() + "/bulk"); err != nil {
			b := make([]byte, 512<<10)
			_, _ = rand.Read(b)
			must(os.WriteFile(i.volume()+"/bulk.new", b, 0o600))
			must(os.Rename(i.volume()+"/bulk.new", i.volume()+"/bulk"))
			syscall.Sync()
		}
	}
	// The control plane's knowledge lies, in truth, not on this host, so it is never lost.
	old, err := os.ReadFile("/disk/plane.log")
	if err != nil && !os.IsNotExist(err) {
		must(err)
	}
	for _, l := range bytes.Split(old, []byte("\n")) {
		var e line
		if json.Unmarshal(l, &e) != nil {
			continue // the last line was cut off, or is empty
		}
		if e.Type == "" {
			w.instances[e.Instance].tasks[e.Request] = e.Task
		} else {
			w.instances[e.Instance].take(model.Event{Type: e.Type}, e.Job, true)
		}
	}
	w.log, err = os.OpenFile("/disk/plane.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	_, err = w.log.WriteString("\n") // ends a line that was cut off
	must(err)
	syncDir("/disk")
	acts, err := net.Listen("tcp", "127.0.0.1:9999")
	must(err)
	go w.runtime(acts)
	plane, err := net.Listen("tcp", "127.0.0.1:9998")
	must(err)
	go func() { must(http.Serve(plane, http.HandlerFunc(w.serve))) }()
	for _, i := range w.instances {
		go i.write()
	}

	logFile, err := os.Create("/tmp/log")
	must(err)
	agent := exec.Command("/etc/holdfast/holdfastd", "--config", "/etc/holdfast/holdfast.yaml")
	agent.Stdout, agent.Stderr = logFile, logFile
	must(agent.Start())
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	for {
		if res, err := http.Get("http://127.0.0.1:9477/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-ended:
			b, _ := os.ReadFile("/tmp/log")
			say("FAIL: the agent ended: %v\n%s", err, b)
			os.Exit(1)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if set, _ := filepath.Glob("/disk/state/journal.db.damaged*"); len(set) > 0 {
		say("FAIL: the journal was damaged: %v", set)
	}
	say("ready")
	var all sync.WaitGroup
	for _, i := range w.instances {
		all.Go(func() { w.command(i, final) })
	}
	all.Wait()

	// A job that failed leaves the base of its last round; nothing else may stand.
	var holders, standing []string
	for patience := 30; ; patience-- { // the last job drops its snapshot after it was reported
		time.Sleep(time.Second)
		holders, _ = filepath.Glob("/disk/volumes/*/.holdfast-snapshots")
		standing, _ = filepath.Glob("/disk/volumes/*/.holdfast-snapshots/*")
		n := bases()
		if len(standing) == n && len(holders) <= n {
			break
		}
		if patience == 0 {
			say("FAIL: %d base snapshots, and there are %v in %v", n, standing, holders)
			break
		}
	}
	for _, pattern := range []string{"/disk/volumes/*/.*", "/disk/volumes/.*", "/disk/.holdfast*/*", "/disk/state/held/*"} {
		left, _ := filepath.Glob(pattern)
		left = slices.DeleteFunc(left, func(path string) bool { return slices.Contains(holders, path) })
		if len(left) > 0 {
			say("FAIL: left behind: %v", left)
		}
	}
	if out, err := exec.Command("/etc/holdfast/holdfast", "verify", "--read-data", "100").CombinedOutput(); err != nil {
		say("FAIL: verify: %v\n%s", err, out)
	}
	must(agent.Process.Signal(syscall.SIGTERM))
	if err := <-ended; err != nil {
		say("FAIL: the agent's end: %v", err)
	}
	say("all is over")
}
