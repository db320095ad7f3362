package api

import (
	_ "embed"
	"net/http"
)

// Document is the OpenAPI 3.1 description of all calls. The tests of this package hold
// every request and every answer of theirs against it, and its paths against the routes.
//
//go:embed openapi.json
var Document []byte

// openapi is GET /v1/agent/openapi.json: the document itself, not in the form of an answer.
func (h *handler) openapi(q *request) (any, error) {
	q.streamed = true
	hd := q.w.Header()
	hd.Set("Content-Type", "application/json")
	hd.Set("X-Content-Type-Options", "nosniff")
	q.w.WriteHeader(http.StatusOK)
	_, _ = q.w.Write(Document) // the caller is gone; there is nobody to tell
	return nil, nil
}
