package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"holdfast/agent/api"
)

// spec is the document as it is served, with what finds the operation of a request.
type spec struct {
	doc    *openapi3.T
	router routers.Router
}

// document loads the document once.
var document = sync.OnceValues(func() (*spec, error) {
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.FileBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", openapi3filter.FileBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromData(api.Document)
	if err != nil {
		return nil, err
	}
	router, err := legacy.NewRouter(doc)
	return &spec{doc, router}, err
})

var filterOptions = &openapi3filter.Options{
	AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true, SkipSettingDefaults: true,
}

// documented holds each exchange of h against the document: every answer must be in the
// document, and a request that was answered with success must be allowed by it. A request
// that the document allows may be refused all the same: the document does not know the roles.
func documented(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	s, err := document()
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The handler gets the body as it comes, and only
		// the part that it reads is kept and judged.
		var body, answer bytes.Buffer
		judged := r.Clone(r.Context())
		if r.Body != nil {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.TeeReader(r.Body, &body), r.Body}
		}
		recorded := &recording{ResponseWriter: w, body: &answer, status: http.StatusOK}
		defer func() {
			if p := recover(); p != nil { // a stream that was cut short on purpose
				panic(p)
			}
			if err := s.check(judged, body.Bytes(), recorded); err != nil {
				t.Errorf("%s %s %q, answered %d %q: %v", r.Method, r.URL.Path, cutTo(body.Bytes()), recorded.status, cutTo(answer.Bytes()), err)
			}
		}()
		h.ServeHTTP(recorded, r)
	})
}

func cutTo(b []byte) []byte { return b[:min(len(b), 300)] }

// recording keeps the answer.
type recording struct {
	http.ResponseWriter
	status int
	body   *bytes.Buffer
}

func (r *recording) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recording) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recording) Write(p []byte) (int, error) {
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}

// check judges one exchange.
func (s *spec) check(r *http.Request, body []byte, answer *recording) error {
	found, parameters, err := s.router.FindRoute(r)
	if err != nil {
		if answer.status == http.StatusNotFound || answer.status == http.StatusMethodNotAllowed || strings.Contains(strings.ToUpper(r.URL.EscapedPath()), "%2F") {
			// an escaped slash is part of a name to the agent, and of the path to the router
			return nil
		}
		return fmt.Errorf("the document has no such call: %w", err)
	}
	if answer.status == http.StatusNotFound || answer.status == http.StatusMethodNotAllowed {
		// An unclean path is none of ours, but the router cleans it first.
		if strings.Contains(r.URL.EscapedPath(), "%2") || strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/.") || strings.HasSuffix(r.URL.Path, "/") {
			return nil
		}
		return fmt.Errorf("the document has the call %s %s", found.Method, found.Path)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		body = nil // blanks are no body to a call that takes none
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json") // callers need not say so
	}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: found, Options: filterOptions}
	if answer.status == http.StatusOK {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			return fmt.Errorf("a request that was taken: %w", err)
		}
	}
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: answer.status, Header: answer.Header(), Options: filterOptions,
		Body: io.NopCloser(bytes.NewReader(answer.body.Bytes())),
	})
	if err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}

func TestDocument(t *testing.T) {
	s, err := document()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if s.doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", s.doc.OpenAPI)
	}
	// Every call has its path, and every path its call.
	calls := api.Routes()
	var paths []string
	for path, item := range s.doc.Paths.Map() {
		for method, op := range item.Operations() {
			paths = append(paths, method+" "+path)
			if op.OperationID == "" || op.Summary == "" {
				t.Errorf("%s %s has no name or no summary", method, path)
			}
		}
	}
	slices.Sort(calls)
	slices.Sort(paths)
	if !slices.Equal(calls, paths) {
		t.Errorf("the routes are\n%s\nthe document has\n%s", strings.Join(calls, "\n"), strings.Join(paths, "\n"))
	}
	// The document has exactly the package's codes.
	var codes []string
	for _, c := range s.doc.Components.Schemas["Code"].Value.Enum {
		codes = append(codes, c.(string))
	}
	want := []string{
		api.CodeOK, api.CodeNoTenant, api.CodeNoRequestID, api.CodeNoHeader, api.CodeParameter, api.CodeNoPermission, api.CodeManyTenants,
		api.CodeInRecovery, api.CodeInBackup, api.CodeNoInstance, api.CodeNotRunning, api.CodeInternal, api.CodeAuthAway, api.CodeCopied,
	}
	if !slices.Equal(codes, want) {
		t.Errorf("codes %q", codes)
	}
}

// The document is served to whoever may see anything, and to nobody else.
func TestDocumentIsServed(t *testing.T) {
	b := newBed(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/agent/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = hdr("x-request-id", "r", "x-auth-token", "t3-read")
	resp, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, api.Document) || !json.Valid(got) || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d bytes, %v, %v", len(got), err, resp.Header)
	}
	if r := b.send(http.MethodGet, "/v1/agent/openapi.json", hdr("x-request-id", "r", "x-auth-token", "stolen"), nil); r.Code != api.CodeNoTenant {
		t.Errorf("%s", r.raw)
	}
}

// What holds exchanges against the document finds what differs.
func TestDocumentedFindsDrift(t *testing.T) {
	s, err := document()
	if err != nil {
		t.Fatal(err)
	}
	ok := `{"error_code":"0","error_msg":"OK","data":{"task_id":"t","cmd_jobs":[{"instance_id":"a","job_id":"j"}]}}`
	for _, tt := range []struct {
		name, path, body, answer string
		status                   int
		want                     string // "": no fault
	}{
		{"right", "/v1/instances/backup", `{"instance_id":"a"}`, ok, 200, ""},
		{"another field of the answer", "/v1/instances/backup", `{"instance_id":"a"}`, strings.Replace(ok, `"data"`, `"x":1,"data"`, 1), 200, "the answer"},
		{"no data", "/v1/instances/backup", `{"instance_id":"a"}`, `{"error_code":"0","error_msg":"OK"}`, 200, "the answer"},
		{"unknown code", "/v1/instances/backup", ``, `{"error_code":"KOOPHONE.API.0001","error_msg":"x"}`, 400, "the answer"},
		{"success as a refusal", "/v1/instances/backup", ``, `{"error_code":"0","error_msg":"OK"}`, 400, "the answer"},
		{"unknown status", "/v1/instances/backup", ``, `{"error_code":"KOOPHONE.API.1000","error_msg":"x"}`, 403, "status is not supported"},
		{"a bad request that was taken", "/v1/instances/backup", `{"instance_id":"../a"}`, ok, 200, "a request that was taken"},
		{"a field that was taken", "/v1/instances/backup", `{"instance_id":"a","force":true}`, ok, 200, "a request that was taken"},
		{"101 that were taken", "/v1/instances/backup", `{"instance_ids":` + ids(101) + `}`, ok, 200, "a request that was taken"},
		{"an unknown call", "/v1/instances/destroy", `{}`, ok, 200, "the document has no such call"},
		{"a call that is gone", "/v1/instances/backup", `{}`, `{}`, 404, "the document has the call"},
	} {
		r := httptest.NewRequest(http.MethodPost, tt.path, nil)
		r.Header = hdr("x-request-id", "r", "x-auth-token", "t")
		w := &recording{ResponseWriter: httptest.NewRecorder(), status: tt.status, body: bytes.NewBufferString(tt.answer)}
		w.Header().Set("Content-Type", "application/json")
		err := s.check(r, []byte(tt.body), w)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
