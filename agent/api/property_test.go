package api_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"holdfast/agent/api"
)

var (
	propertySeed     = flag.Uint64("property.seed", 1, "seed of TestEveryOperation")
	propertyRequests = flag.Int("property.requests", 20_000, "requests of TestEveryOperation")
)

// maker makes requests of an operation from the document: allowed
// values, values at the bounds, and values that break the document.
type maker struct {
	*rand.Rand
}

// kind of a request.
type kind int

const (
	valid kind = iota
	boundary
	broken
	kinds
)

func (k kind) String() string { return [...]string{"valid", "boundary", "broken"}[k] }

func pick[T any](m maker, list ...T) T { return list[m.IntN(len(list))] }

// text makes a string of a schema.
func (m maker) text(s *openapi3.Schema, k kind) string {
	most := 64
	if s.MaxLength != nil {
		most = int(*s.MaxLength)
	}
	switch {
	case s.Type.Is("boolean") && len(s.Enum) == 0 && k != broken:
		return pick(m, "true", "false")
	case len(s.Enum) > 0 && k != broken:
		return fmt.Sprint(pick(m, s.Enum...))
	case k == broken:
		return pick(m, "", "../../etc/passwd", "a b", "\x00", "\x1b[31m", "a\nb", "téléphone", "%s%n", strings.Repeat("x", most+1), strings.Repeat("é", 70_000), ".", "-", "a/b")
	case strings.HasPrefix(s.Pattern, "^[A-Za-z0-9][A-Za-z0-9._-]{0,31}"):
		if k == boundary {
			return pick(m, "a", "0", strings.Repeat("a", 32), "a._-", strings.Repeat("9", 31)+"-")
		}
		return pick(m, "phone-1", "phone-2", "phone-9", fmt.Sprintf("i%d", m.IntN(1000)))
	case s.Pattern == "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$":
		if k == boundary {
			return pick(m, "a", "0", strings.Repeat("a", 128), "a._:@-")
		}
		return pick(m, "t1", "t2", fmt.Sprintf("t%d", m.IntN(1000)))
	case s.Pattern == "^[0-9]{1,19}$":
		return pick(m, "0", "1", "999999999999999999", "9223372036854775807")
	case k == boundary:
		return pick(m, "!", strings.Repeat("~", most), strings.Repeat("x", most-1))
	}
	return pick(m, "task-t1", "task-t2", "u1", fmt.Sprintf("x%d", m.Uint64()))
}

// integer makes a whole number of a schema with both bounds, or a list of values.
func (m maker) integer(s *openapi3.Schema, k kind) any {
	switch {
	case k == broken:
		return pick[any](m, -1, 1, 0.5, 1e300, "0", nil, true, []any{})
	case len(s.Enum) > 0:
		return pick(m, s.Enum...)
	case k == boundary:
		return int64(pick(m, *s.Min, *s.Max))
	}
	return int64(*s.Min) + m.Int64N(int64(*s.Max-*s.Min))
}

// value makes a JSON value of a schema.
func (m maker) value(ref *openapi3.SchemaRef, k kind) any {
	s := ref.Value
	switch {
	case len(s.OneOf) > 0:
		return m.value(pick(m, s.OneOf...), k)
	case s.Type.Is("object"):
		o := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			p := s.Properties[name]
			if slices.Contains(s.Required, name) || m.IntN(3) == 0 {
				o[name] = m.value(p, k)
			}
		}
		return o
	case s.Type.Is("array"):
		n := int(s.MinItems) + m.IntN(3)
		if k == boundary && s.MaxItems != nil {
			n = pick(m, int(s.MinItems), int(*s.MaxItems))
		}
		list := []any{}
		for i := range n {
			v := m.value(s.Items, k)
			if id, ok := v.(string); ok && n > 3 { // they must differ
				v = fmt.Sprintf("%s%d", id[:min(len(id), 20)], i)
			}
			if !slices.ContainsFunc(list, func(o any) bool { return o == v }) {
				list = append(list, v)
			}
		}
		return list
	case s.Type.Is("integer"):
		return m.integer(s, k)
	case s.Type.Is("boolean") && k == broken:
		return pick[any](m, "true", 1, nil, []any{})
	case s.Type.Is("boolean"):
		return m.IntN(2) == 0
	}
	return m.text(s, k)
}

// body makes a body, broken in one of many ways if so asked.
func (m maker) body(ref *openapi3.SchemaRef, k kind) string {
	if k != broken {
		return encoded(m.value(ref, k))
	}
	v := m.value(ref, valid)
	text := encoded(v)
	o, _ := v.(map[string]any)
	switch m.IntN(12) {
	case 0:
		return text[:m.IntN(len(text))]
	case 1:
		return text + pick(m, "{}", "]", "x", "\x00")
	case 2:
		return pick(m, "null", "[]", "3", `"x"`, "", " ", "\xff", strings.Repeat("[", 50_000), `{"x":`+strings.Repeat(`{"x":`, 20_000))
	case 3:
		return strings.Repeat(" ", api.MaxBodyBytes) + text
	case 4:
		o["force"] = true
		return encoded(o)
	case 5:
		for _, name := range slices.Sorted(maps.Keys(o)) {
			o[name] = pick[any](m, nil, 3, true, []any{}, map[string]any{}, 1e308, -1)
		}
		return encoded(o)
	case 6:
		return strings.Replace(text, `"`, `"\u0000`, 1)
	case 7:
		return `{"instance_ids":["a"],"instance_ids":["b"]}`
	case 8:
		return `{"instance_ids":` + ids(101) + `}`
	case 9:
		return `{"instance_ids":["phone-1","phone-1"]}`
	case 10:
		b := []byte(text)
		b[m.IntN(len(b))] = byte(m.IntN(256))
		return string(b)
	}
	return encoded(m.value(ref, broken))
}

func encoded(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// request makes a request of an operation. injected tells that its
// token stands for a failure of ours.
func (m maker) request(method, path string, op *openapi3.Operation, k kind) (r *http.Request, injected bool) {
	part := func() kind { // a broken request need not be broken everywhere
		if k == broken && m.IntN(2) == 0 {
			return valid
		}
		return k
	}
	header, query := http.Header{}, url.Values{}
	for _, ref := range op.Parameters {
		p := ref.Value
		text := m.text(p.Schema.Value, part())
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(text))
		case !p.Required && m.IntN(2) == 0:
		case p.In == "query":
			query.Add(p.Name, text)
		default:
			header[http.CanonicalHeaderKey(p.Name)] = []string{text}
		}
	}
	token := pick(m, "t1", "t1", "t3-read", "plane", "ops", "t1-nouser")
	if header.Get("X-Request-Id") == "" && m.IntN(4) > 0 {
		header.Set("X-Request-Id", fmt.Sprint("r", m.Uint64()))
	}
	if k == broken {
		switch m.IntN(8) {
		case 0:
			header.Del("X-Request-Id")
		case 1:
			header.Add("X-Request-Id", "again")
		case 2:
			token = pick(m, "", "stolen", "nothing", strings.Repeat("x", api.MaxTokenBytes+1), "\x00")
		case 3:
			token = pick(m, "iam-down", "broken")
			injected = true
		case 4:
			query.Add(pick(m, "since", "active", "instance", "\x00"), pick(m, "", "maybe", "%00"))
		case 5:
			method = pick(m, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, "HACK", http.MethodGet, http.MethodPost)
		case 6:
			path += pick(m, "/", "//", "/..", "/.", "x", "%00")
		}
	}
	var body string
	if op.RequestBody != nil {
		body = m.body(op.RequestBody.Value.Content["application/json"].Schema, part())
	} else if k == broken && m.IntN(4) == 0 {
		body = "{}"
	}
	u := &url.URL{Path: path, RawQuery: query.Encode()}
	if plain, err := url.PathUnescape(path); err == nil {
		u.Path, u.RawPath = plain, path
	}
	r = httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
	r.Method, r.URL, r.RequestURI, r.Header = method, u, u.RequestURI(), header
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	return r, injected
}

// TestEveryOperation sends requests made from the document to every
// operation: none is answered with 500 but where a fault was put in,
// each answer is as the document says, and no goroutine is left.
func TestEveryOperation(t *testing.T) {
	s, err := document()
	if err != nil {
		t.Fatal(err)
	}
	type call struct {
		method, path string
		op           *openapi3.Operation
	}
	var calls []call
	for path, item := range s.doc.Paths.Map() {
		for method, op := range item.Operations() {
			calls = append(calls, call{method, path, op})
		}
	}
	slices.SortFunc(calls, func(a, b call) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	f := newFake()
	network := documented(t, api.NewHandler(f, tokens, api.Options{}))
	socket := documented(t, api.NewOperatorHandler(f, api.Options{}))
	m := maker{rand.New(rand.NewPCG(*propertySeed, 0))}
	before := runtime.NumGoroutine()
	statuses, taken := map[string]int{}, map[string]int{}
	for i := range *propertyRequests {
		c, k := calls[i%len(calls)], kind(m.IntN(int(kinds)))
		r, injected := m.request(c.method, c.path, c.op, k)
		f.fail, f.panics = nil, nil
		switch m.IntN(50) {
		case 0:
			f.fail, injected = errors.New("injected"), true
		case 1:
			f.panics, injected = "injected", true
		}
		h := network
		if m.IntN(5) == 0 && strings.HasPrefix(c.path, "/v1/agent/") {
			h = socket
		}
		w := httptest.NewRecorder()
		func() {
			defer func() { // an error that was injected into a stream cuts it short
				if p := recover(); p != nil && (p != http.ErrAbortHandler || !injected) { //nolint:errorlint // net/http's own value
					t.Errorf("seed %d, request %d: panic %v", *propertySeed, i, p)
				}
			}()
			h.ServeHTTP(w, r)
		}()
		statuses[fmt.Sprintf("%v %d", k, w.Code)]++
		if w.Code == http.StatusOK {
			taken[c.method+" "+c.path]++
		}
		if w.Code >= http.StatusInternalServerError && !injected {
			t.Errorf("seed %d, request %d: %s %s: %d %s", *propertySeed, i, r.Method, r.URL, w.Code, w.Body)
		}
		if t.Failed() {
			return
		}
	}
	for _, c := range calls {
		if n := taken[c.method+" "+c.path]; n < *propertyRequests/len(calls)/100 { // a batch of one tenant is seldom made
			t.Errorf("%s %s was taken %d times only: what is made does not reach it", c.method, c.path, n)
		}
	}
	// some may be about to end
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after := runtime.NumGoroutine()
		if after <= before {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d goroutines, %d before", after, before)
			break
		}
	}
	t.Logf("%d requests by seed %d: %v", *propertyRequests, *propertySeed, statuses)
}
