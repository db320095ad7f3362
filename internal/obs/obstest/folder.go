package obstest

import (
	"testing"

	"holdfast/internal/obs"
)

// Folder makes the folder an empty file store, as holdfast store init does.
func Folder(t testing.TB, dir string) {
	t.Helper()
	s, err := obs.Open(t.Context(), "file://"+dir, obs.Options{Create: true})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
