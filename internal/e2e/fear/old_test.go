package fear_test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/obs/proxytest"
)

// objects remembers the packs that were deleted, so that gates can show them for a while. FORMAT.md
// (Garbage, R3) allows that to processes whose session was confirmed before the delete.
type objects struct {
	mu    sync.Mutex
	packs map[string]*pack
}

// pack is an object of the store, as it was put.
type pack struct {
	key     string
	size    int
	etag    string
	put     time.Time
	deleted time.Time // when the first delete began; zero: none
}

func newObjects() *objects { return &objects{packs: map[string]*pack{}} }

// put notes a pack that the store has confirmed.
func (o *objects) put(key string, size int, etag string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.packs[key] == nil {
		o.packs[key] = &pack{key: key, size: size, etag: etag, put: time.Now()}
	}
}

// deleting notes that a delete begins.
func (o *objects) deleting(keys []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		if p := o.packs[key]; p != nil && p.deleted.IsZero() {
			p.deleted = time.Now()
		}
	}
}

// old returns a deleted pack that a process may still find whose session was confirmed then.
func (o *objects) old(key string, session time.Time) (*pack, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.packs[key]
	if p == nil || p.deleted.IsZero() || session.IsZero() || !session.Before(p.deleted) {
		return nil, false
	}
	return p, true
}

// look is the answer to a look at the pack, with the other headers of an answer.
func (p *pack) look(header http.Header) *answered {
	h := header.Clone()
	h.Del("Content-Type")
	h.Set("Content-Length", strconv.Itoa(p.size))
	h.Set("ETag", p.etag)
	h.Set("Last-Modified", p.put.UTC().Format(http.TimeFormat))
	return &answered{status: http.StatusOK, header: h}
}

var (
	rows    = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	rowKey  = regexp.MustCompile(`<Key>(.*?)</Key>`)
	count   = regexp.MustCompile(`<KeyCount>\d+</KeyCount>`)
	partial = regexp.MustCompile(`<IsTruncated>true</IsTruncated>`)
)

// rowsOf are the rows of a list by their keys.
func rowsOf(list []byte) map[string]string {
	all := map[string]string{}
	for _, row := range rows.FindAllString(string(list), -1) {
		if key := rowKey.FindStringSubmatch(row); key != nil {
			all[key[1]] = row
		}
	}
	return all
}

// withRows is the list with other rows.
func withRows(list []byte, all map[string]string) []byte {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		text.WriteString(all[key])
	}
	bare := rows.ReplaceAllString(string(list), "")
	bare = count.ReplaceAllString(bare, fmt.Sprintf("<KeyCount>%d</KeyCount>", len(all)))
	end := strings.LastIndex(bare, "</ListBucketResult>")
	return []byte(bare[:end] + text.String() + bare[end:])
}

// oldList adds deleted packs to a list of packs, as old does, and returns how many. A list of
// several pages stays as it is.
func (o *objects) oldList(list []byte, prefix string, session time.Time) ([]byte, int) {
	if partial.Match(list) {
		return list, 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	all, n := rowsOf(list), 0
	for key, p := range o.packs {
		if strings.HasPrefix(key, prefix) && all[key] == "" && !p.deleted.IsZero() && !session.IsZero() && session.Before(p.deleted) {
			all[key] = proxytest.Row(key, p.size)
			n++
		}
	}
	if n == 0 {
		return list, 0
	}
	return withRows(list, all), n
}

// inBoth is the first list without the rows that the second list lacks, and how many these are.
func inBoth(first, second []byte) ([]byte, int) {
	if partial.Match(first) || partial.Match(second) {
		return first, 0
	}
	a, b := rowsOf(first), rowsOf(second)
	n := len(a)
	maps.DeleteFunc(a, func(key, _ string) bool { return b[key] == "" })
	if len(a) == n {
		return first, 0
	}
	return withRows(first, a), n - len(a)
}

// TestOldAnswers: gates give an old answer only to processes that may see it.
func TestOldAnswers(t *testing.T) {
	o := newObjects()
	o.put("fear/v/packs/aa/1", 10, "e")
	o.put("fear/v/packs/aa/2", 20, "e")
	begun := time.Now()
	o.deleting([]string{"fear/v/packs/aa/1"})
	if _, is := o.old("fear/v/packs/aa/1", begun.Add(-time.Second)); !is {
		t.Error("a process with an earlier session does not find the deleted pack")
	}
	for name, session := range map[string]time.Time{"later": time.Now().Add(time.Second), "no": {}} {
		if _, is := o.old("fear/v/packs/aa/1", session); is {
			t.Errorf("a process with %s session finds the deleted pack", name)
		}
	}
	if _, is := o.old("fear/v/packs/aa/2", begun.Add(-time.Second)); is {
		t.Error("a pack that nobody deleted is an old one")
	}
	page := func(keys ...string) []byte {
		text := fmt.Sprintf("<ListBucketResult><KeyCount>%d</KeyCount>", len(keys))
		for _, key := range keys {
			text += proxytest.Row(key, 20)
		}
		return []byte(text + "<IsTruncated>false</IsTruncated></ListBucketResult>")
	}
	list, n := o.oldList(page("fear/v/packs/aa/2"), "fear/v/packs/", begun.Add(-time.Second))
	if got := rowsOf(list); n != 1 || len(got) != 2 || !strings.Contains(string(list), "<KeyCount>2<") {
		t.Errorf("the old list is %s", list)
	}
	if list, n = o.oldList(page("fear/v/packs/aa/2"), "fear/v/packs/bb/", begun.Add(-time.Second)); n != 0 || len(rowsOf(list)) != 1 {
		t.Errorf("the old list of another folder is %s", list)
	}
	list, n = inBoth(page("a", "b", "c"), page("b", "c", "d"))
	if got := slices.Sorted(maps.Keys(rowsOf(list))); n != 1 || !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("both lists have %q", got)
	}
}
