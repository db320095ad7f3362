package snapshot

import (
	"fmt"
	"path/filepath"
	"strings"
)

// SnapshotFolder is the folder, with mode 0700, that holds the snapshots. It stands
// beside the volume and never inside: there it would change the content of the backup.
const SnapshotFolder = ".holdfast-snapshots"

// maxPart keeps three parts and the separators below the 255 bytes of a file name.
const maxPart = 64

// snapshotName gives hf.<host>.<job>.<volume>. A dot inside a part is written "+", which no part
// may hold: else host "a" would take the snapshots of host "a.b" for its own.
func snapshotName(req Request) (string, error) {
	for _, p := range []struct{ what, val string }{{"host id", req.Host}, {"job id", req.Job}, {"volume name", req.Name}} {
		if !validPart(p.val) {
			return "", fmt.Errorf("%s %q: %w: 1 to %d characters of [A-Za-z0-9._-]", p.what, p.val, ErrUsage, maxPart)
		}
	}
	esc := func(s string) string { return strings.ReplaceAll(s, ".", "+") }
	return "hf." + esc(req.Host) + "." + esc(req.Job) + "." + esc(req.Name), nil
}

// parseName is the reverse of snapshotName; ok is false for every name that it would not have made.
func parseName(name string) (host, job, volume string, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || parts[0] != "hf" {
		return "", "", "", false
	}
	for i, p := range parts[1:] {
		p = strings.ReplaceAll(p, "+", ".")
		if !validPart(p) {
			return "", "", "", false
		}
		parts[i+1] = p
	}
	return parts[1], parts[2], parts[3], true
}

func validPart(s string) bool {
	if s == "" || len(s) > maxPart {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// Owner reads the host id, the job id and the volume's name from the name of the
// snapshot; ok is false where Ref has no name, or a name that this package did not make.
func (r Ref) Owner() (host, job, volume string, ok bool) {
	return parseName(filepath.Base(r.Path))
}
