package testbed

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// machineModules are loaded in every machine.
var machineModules = []string{"virtio_pci", "virtio_console", diskModule}

// diskModule makes disks appear; a saved machine has not loaded it yet.
const diskModule = "virtio_blk"

// machineKernel is a kernel that packaging/ci/setup.sh has unpacked.
type machineKernel struct {
	image   string
	modules string // the folder of modules.dep
}

func findKernel() (machineKernel, error) {
	if runtime.GOARCH != "amd64" {
		return machineKernel{}, fmt.Errorf("a kernel for amd64 machines (this is %s)", runtime.GOARCH)
	}
	root := filepath.Join(moduleRoot(), "build", "vm")
	if tools := os.Getenv("HOLDFAST_TOOLS"); tools != "" {
		root = filepath.Join(filepath.Dir(tools), "vm")
	}
	deps, _ := filepath.Glob(filepath.Join(root, "lib/modules/*/modules.dep"))
	if len(deps) == 1 {
		k := machineKernel{modules: filepath.Dir(deps[0])}
		k.image = filepath.Join(root, "boot/vmlinuz-"+filepath.Base(k.modules))
		if _, err := os.Stat(k.image); err == nil {
			return k, nil
		}
	}
	return machineKernel{}, errors.New("a kernel for virtual machines in build/vm (\"make tools\" fetches it)")
}

// closure lists the files of the named modules and of all modules that they need, below
// modules, each after the modules that it needs.
func (k machineKernel) closure(names []string) ([]string, error) {
	table, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	moduleName := func(file string) string {
		return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
	}
	inside, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	// module name -> its file, then the modules that it needs, in the order of removal
	files := map[string][]string{}
	for file := range strings.Lines(string(inside)) {
		files[moduleName(strings.TrimSpace(file))] = []string{}
	}
	for line := range strings.Lines(string(table)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		files[moduleName(file)] = append([]string{file}, strings.Fields(needs)...)
	}
	var all []string
	for _, name := range names {
		chain, ok := files[strings.ReplaceAll(name, "-", "_")]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		for _, file := range slices.Backward(chain) {
			if !slices.Contains(all, file) {
				all = append(all, file)
			}
		}
	}
	return all, nil
}

// writeInitramfs packs the root folder of a machine, with an init that runs the spec's program.
func (m *Machine) writeInitramfs(k machineKernel, spec MachineSpec, mode bootMode) error {
	f, err := os.Create(m.initramfs())
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := &cpioWriter{w: buffered, seen: map[string]bool{}}

	modules, err := k.closure(append(slices.Clone(machineModules), spec.Modules...))
	if err != nil {
		return err
	}
	for _, file := range modules {
		w.host(filepath.Join(k.modules, file), "/modules/"+path.Base(file))
	}
	w.program(spec.Program, programInside(spec))
	for _, name := range append([]string{"busybox"}, spec.Tools...) {
		tool, err := Program(name)
		if err != nil {
			return err
		}
		w.program(tool, "/usr/bin/"+name)
	}
	for name, content := range spec.Files {
		w.file(name, 0o644, strings.NewReader(content), int64(len(content)))
	}
	script := initScript(modules, spec, mode)
	w.file("/init", 0o755, strings.NewReader(script), int64(len(script)))
	w.trailer()
	return errors.Join(w.err, buffered.Flush(), f.Close())
}

// initScript is the first program of a machine.
func initScript(modules []string, spec MachineSpec, mode bootMode) string {
	var s strings.Builder
	s.WriteString(`#!/usr/bin/busybox sh
/usr/bin/busybox mkdir -p /bin /dev /proc /sys /run /tmp /root /var /lib
/usr/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root TMPDIR=/tmp
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mkdir -p /run/lock
ip link set lo up
`)
	for _, file := range modules {
		if path.Base(file) != diskModule+".ko" {
			fmt.Fprintf(&s, "insmod /modules/%s\n", path.Base(file))
		}
	}
	// The ports' numbers depend on the order in which devices were found, so the script uses
	// their names, which the kernel hears a moment after it has the ports. A port is at its end
	// until the kernel has also heard that this host's side is open. The script keeps it open
	// meanwhile: when the last process closes a port, the data that has arrived is discarded.
	ports := []string{"output"}
	if mode != bootThrough {
		ports = append(ports, "input")
	}
	for _, port := range ports {
		fmt.Fprintf(&s, `until [ -n "$%[1]s" ]; do
	for port in /sys/class/virtio-ports/*; do
		[ "$(cat $port/name 2>/dev/null)" = %[1]s ] && %[1]s=/dev/${port##*/}
	done
	[ -n "$%[1]s" ] || sleep 0.05
done
`, port)
	}
	if mode == bootSaved {
		fmt.Fprintf(&s, "echo %s\nexec 3<$input\nuntil read -r line <&3; do sleep 0.05; done\nexec 3<&-\neval \"$line\"\n", savedMark)
	}
	fmt.Fprintf(&s, "insmod /modules/%s.ko\n", diskModule)
	for _, e := range spec.Env {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&s, "export %s=%s\n", name, shellQuote(value))
	}
	s.WriteString(shellQuote(programInside(spec)))
	for _, a := range spec.Args {
		s.WriteString(" " + shellQuote(a))
	}
	s.WriteString(" >$output 2>&1\n")
	fmt.Fprintf(&s, "printf '\\n%s%%s\\n' $?\nsync\npoweroff -f\n", exitMark)
	return s.String()
}

// programInside is the path of the program in the machine. The name stays: busybox goes by it.
func programInside(spec MachineSpec) string { return "/program/" + filepath.Base(spec.Program) }

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// cpioWriter writes an archive in the format "newc", which the kernel unpacks as its
// first root folder (Documentation/driver-api/early-userspace/buffer-format.rst).
// After an error it does nothing more.
type cpioWriter struct {
	w    io.Writer
	size int64
	seen map[string]bool // names that are in the archive
	err  error
}

// program adds a program of this host with the shared libraries it needs.
func (w *cpioWriter) program(file, name string) {
	w.host(file, name)
	libraries, err := sharedLibraries(file)
	if err != nil && w.err == nil {
		w.err = err
	}
	for _, lib := range libraries {
		w.host(lib, lib)
	}
}

// host adds a file of this host under that name, links followed.
func (w *cpioWriter) host(file, name string) {
	if w.err != nil || w.seen[name] {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		w.err = err
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		w.err = err
		return
	}
	w.file(name, st.Mode().Perm(), f, st.Size())
}

func (w *cpioWriter) file(name string, mode fs.FileMode, content io.Reader, size int64) {
	if w.seen[name] {
		return
	}
	w.folders(path.Dir(name))
	w.entry(name, 0o100000|uint32(mode), content, size)
}

func (w *cpioWriter) folders(name string) {
	if name == "/" || w.seen[name] {
		return
	}
	w.folders(path.Dir(name))
	w.entry(name, 0o040755, nil, 0)
}

func (w *cpioWriter) trailer() { w.entry("/TRAILER!!!", 0, nil, 0) }

func (w *cpioWriter) entry(name string, mode uint32, content io.Reader, size int64) {
	if w.err != nil {
		return
	}
	w.seen[name] = true
	name = strings.TrimPrefix(name, "/")
	var header bytes.Buffer
	header.WriteString("070701")
	// inode, mode, user, group, links, time, size, device (2), device
	// it stands for (2), length of the name, sum
	for _, v := range []uint32{uint32(len(w.seen)), mode, 0, 0, 1, 0, uint32(size), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		fmt.Fprintf(&header, "%08x", v)
	}
	header.WriteString(name + "\x00")
	w.copy(&header)
	if content != nil {
		w.copy(io.LimitReader(content, size))
	}
}

// copy writes r and pads to a multiple of four bytes.
func (w *cpioWriter) copy(r io.Reader) {
	if w.err != nil {
		return
	}
	n, err := io.Copy(w.w, r)
	w.size += n
	if pad := -w.size & 3; err == nil && pad > 0 {
		_, err = w.w.Write(make([]byte, pad))
		w.size += pad
	}
	w.err = err
}

// libraryFolders are Debian's folders of shared libraries.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"}

// sharedLibraries lists the loader and all libraries that a program needs, and the
// libraries that these need.
func sharedLibraries(program string) ([]string, error) {
	var all []string
	for todo := []string{program}; len(todo) > 0; todo = todo[1:] {
		needs, err := elfNeeds(todo[0])
		if err != nil {
			return nil, err
		}
		for _, n := range needs {
			file, err := findLibrary(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", todo[0], err)
			}
			if !slices.Contains(all, file) {
				all = append(all, file)
				todo = append(todo, file)
			}
		}
	}
	return all, nil
}

// elfNeeds gives the names of the libraries that a file names, and the path of its loader.
func elfNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		needs = append(needs, strings.TrimRight(string(loader), "\x00"))
	}
	return needs, nil
}

func findLibrary(name string) (string, error) {
	if path.IsAbs(name) {
		return name, nil
	}
	for _, dir := range libraryFolders {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("library %s is in none of %s", name, strings.Join(libraryFolders, ", "))
}
