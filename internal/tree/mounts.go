package tree

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// MountPoints returns the places below the folder dir at which something is mounted, as paths in dir, also of file systems that are dead.
// It asks none of them. It returns nil where nothing is mounted, and where there is no /proc that tells.
func MountPoints(dir string) map[string]bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil
	}
	return mountPoints(table, dir)
}

// mountPoints picks from a table of mounts (proc_pid_mountinfo(5)) those below dir.
func mountPoints(table []byte, dir string) (points map[string]bool) {
	const pointAt = 4 // the field of the mount point
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) <= pointAt {
			continue
		}
		point := unescapeMount(string(fields[pointAt]))
		if below, ok := strings.CutPrefix(point, strings.TrimSuffix(dir, "/")+"/"); ok && below != "" {
			if points == nil {
				points = map[string]bool{}
			}
			points[below] = true
		}
	}
	return points
}

// unescapeMount undoes that the kernel writes white space and backslashes as a backslash and three octal digits.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool { return strings.Trim(s, "01234567") == "" }
