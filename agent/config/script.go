package config

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"
)

// checkScript reports why the kernel can't run an executable script: the kernel's messages
// ("no such file", "exec format error") name the script, and not the fault of its first line.
func checkScript(f *faults, path, name string) {
	file, err := os.Open(name)
	if err != nil {
		return // the agent may be allowed to run a file that it may not read
	}
	defer file.Close()
	// The kernel looks at the first 256 bytes.
	first, err := bufio.NewReader(io.LimitReader(file, 256)).ReadBytes('\n')
	if err != nil && len(first) == 0 {
		return
	}
	if rest, marked := bytes.CutPrefix(first, byteOrderMark); marked && bytes.HasPrefix(rest, []byte("#!")) {
		f.add(path, "%s begins with a byte order mark (EF BB BF), so the kernel does not see its #!; save it as UTF-8 without the mark", quote(name))
		return
	}
	line, script := bytes.CutPrefix(first, []byte("#!"))
	if !script {
		return
	}
	if bytes.Contains(line, []byte("\r")) {
		f.add(path, "the first line of %s ends in CR LF, as Windows writes it, and the kernel looks for an interpreter whose name ends in CR; convert it (sed -i 's/\\r$//' %s)",
			quote(name), name)
		return
	}
	words := strings.Fields(string(line))
	if len(words) == 0 {
		f.add(path, "the first line of %s names no interpreter after #!", quote(name))
		return
	}
	if _, err := os.Stat(words[0]); err != nil {
		f.add(path, "the interpreter that the first line of %s names can't be used: %v", quote(name), err)
	}
}
