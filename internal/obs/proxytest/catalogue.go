package proxytest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	htmlPage  = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>"
	htmlType  = "text/html; charset=utf-8"
	xmlType   = "application/xml"
	errorPage = "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>in words</Message></Error>"
)

// Misbehaviours is the catalogue: by operation and by fault.
func Misbehaviours() []Misbehaviour {
	var all []Misbehaviour
	for _, part := range [][]Misbehaviour{listDocuments(), listPages(), reads(), puts(), deletes()} {
		all = append(all, part...)
	}
	return all
}

// listDocuments are answers to lists that are no lists.
func listDocuments() []Misbehaviour {
	doc := func(what, contentType, body string) []Misbehaviour {
		return []Misbehaviour{
			{Op: OpList, Fault: what, wrap: page(OpList, 1, always, 200, contentType, body)},
			{Op: OpList, Fault: what + " on page 2", wrap: page(OpList, 2, always, 200, contentType, body)},
			{Op: OpList, Fault: what + " once", Works: true, wrap: page(OpList, 1, 1, 200, contentType, body)},
		}
	}
	var all []Misbehaviour
	all = append(all, doc("200 with the page of a gateway", htmlType, htmlPage)...)
	all = append(all, doc("200 with nothing", xmlType, "")...)
	all = append(all, doc("200 with an error document", xmlType, fmt.Sprintf(errorPage, "InternalError"))...)
	all = append(all, doc("200 with JSON", "application/json", "{}")...)
	all = append(all, doc("200 with a list of buckets", xmlType, "<ListAllMyBucketsResult></ListAllMyBucketsResult>")...)
	all = append(all, doc("200 with a list of versions", xmlType, "<ListVersionsResult></ListVersionsResult>")...)
	all = append(all, doc("200 with two documents", xmlType, "<ListBucketResult></ListBucketResult><Error></Error>")...)
	return append(all, []Misbehaviour{
		{Op: OpList, Fault: "200 with half of a list", wrap: change(OpList, 1, always, func(_ *http.Request, a *answered) { a.body = a.body[:len(a.body)*2/3] })},
		{Op: OpList, Fault: "200 with an unknown error", wrap: page(OpList, 1, always, 200, xmlType, fmt.Sprintf(errorPage, "Whatever"))},
		{Op: OpList, Fault: "204", wrap: page(OpList, 1, always, 204, "", "")},
		{Op: OpList, Fault: "404 with the page of an ingress", wrap: page(OpList, 1, always, 404, htmlType, htmlPage)},
		{Op: OpList, Fault: "403 with a page", wrap: page(OpList, 1, always, 403, htmlType, htmlPage)},
		{Op: OpList, Fault: "cut", wrap: meet(OpList, 1, always, cutAnswer)},
		{Op: OpList, Fault: "cut once", Works: true, wrap: meet(OpList, 1, 1, cutAnswer)},
		{Op: OpList, Fault: "cut on page 2, once", Works: true, wrap: meet(OpList, 2, 2, cutAnswer)},
		{Op: OpList, Fault: "late, once", Works: true, Late: true, wrap: meet(OpList, 1, 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			late(r)
			next.ServeHTTP(w, r)
		})},
	}...)
}

// late waits longer than the patience of a store.
func late(r *http.Request) {
	select {
	case <-time.After(600 * time.Millisecond):
	case <-r.Context().Done():
	}
}

// listPages are lists whose pages don't fit together, or whose rows do not match the request.
func listPages() []Misbehaviour {
	firstPage := func(_ http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
		delete(q, "continuation-token")
		delete(q, "start-after")
		delete(q, "marker")
		return true
	}
	tokenRefused := func(status int, code string) func(http.Handler) http.Handler {
		return query(func(w http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			if len(q["continuation-token"]) > 0 {
				fault(w, status, code)
				return false
			}
			return true
		})
	}
	noV2 := func(status int, code string) func(http.Handler) http.Handler {
		return query(func(w http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			if len(q["list-type"]) > 0 {
				fault(w, status, code)
				return false
			}
			return true
		})
	}
	return []Misbehaviour{
		{Op: OpList, Fault: "page 1 again and again", wrap: query(firstPage)},
		{Op: OpList, Fault: "page 1 for every token", Works: true, wrap: query(func(_ http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			delete(q, "continuation-token")
			return true
		})},
		{Op: OpList, Fault: "the same token on every page", Works: true, wrap: change(OpList, 1, always, func(_ *http.Request, a *answered) {
			if head, rest, ok := strings.Cut(a.body, "<NextContinuationToken>"); ok {
				_, rest, _ = strings.Cut(rest, "</NextContinuationToken>")
				a.body = head + "<NextContinuationToken>same</NextContinuationToken>" + rest
			}
		})},
		{Op: OpList, Fault: "start-after is ignored", Works: true, wrap: query(func(_ http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			delete(q, "start-after")
			return true
		})},
		{Op: OpList, Fault: "the token expired on page 2", Works: true, wrap: tokenRefused(400, "InvalidArgument")},
		{Op: OpList, Fault: "the token is gone on page 2", Works: true, wrap: tokenRefused(410, "Gone")},
		{Op: OpList, Fault: "version 2 is not implemented", Works: true, wrap: noV2(501, "NotImplemented")},
		{Op: OpList, Fault: "version 2 is an invalid argument", Works: true, wrap: noV2(400, "InvalidArgument")},
		{Op: OpList, Fault: "version 2 is not allowed", Works: true, wrap: noV2(405, "MethodNotAllowed")},
		{Op: OpList, Fault: "version 2 is answered in version 1", Works: true, wrap: query(func(_ http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			delete(q, "list-type")
			delete(q, "continuation-token")
			delete(q, "start-after")
			return true
		})},
		{Op: OpList, Fault: "full pages say that they are the last", Works: true, wrap: both(replaced(OpList, 1, "<IsTruncated>true", "<IsTruncated>false"), dropElement("NextContinuationToken"))},
		{Op: OpList, Fault: "no word whether a page follows", Works: true, wrap: dropElement("IsTruncated")},
		{Op: OpList, Fault: "every page says that another follows", wrap: replaced(OpList, 1, "<IsTruncated>false", "<IsTruncated>true")},
		{Op: OpList, Fault: "IsTruncated is no truth value", wrap: replaced(OpList, 1, "<IsTruncated>false", "<IsTruncated>perhaps", "<IsTruncated>true", "<IsTruncated>perhaps")},
		{Op: OpList, Fault: "no tokens", Works: true, wrap: dropElement("NextContinuationToken")},
		{Op: OpList, Fault: "rows in another order", wrap: rowsChanged(func(rows []string) []string {
			for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
				rows[i], rows[j] = rows[j], rows[i]
			}
			return rows
		})},
		{Op: OpList, Fault: "rows twice", Works: true, wrap: both(dropElement("KeyCount"), rowsChanged(func(rows []string) []string {
			var out []string
			for _, r := range rows {
				out = append(out, r, r)
			}
			return out
		}))},
		{Op: OpList, Fault: "rows fewer than told", V2: true, wrap: rowsChanged(func(rows []string) []string { return rows[:max(0, len(rows)-1)] })},
		{Op: OpList, Fault: "a key outside of the prefix", wrap: rowsChanged(func(rows []string) []string { return append(rows, Row("zz", 1)) })},
		{Op: OpList, Fault: "a key shorter than the prefix", wrap: rowsChanged(func(rows []string) []string { return append([]string{Row("v", 1)}, rows...) })},
		{Op: OpList, Fault: "a row without key", wrap: rowsChanged(func(rows []string) []string { return append([]string{"<Contents></Contents>"}, rows...) })},
		{Op: OpList, Fault: "the list of another prefix", wrap: query(func(_ http.ResponseWriter, _ *http.Request, q map[string][]string) bool {
			q["prefix"] = []string{"other/"}
			return true
		})},
		{Op: OpList, Fault: "a negative size", wrap: replaced(OpList, 1, "<Size>", "<Size>-")},
		{Op: OpList, Fault: "no size", wrap: dropElement("Size")},
		{Op: OpList, Fault: "no time", Works: true, wrap: dropElement("LastModified")},
		{Op: OpList, Fault: "a time of another form", Works: true, wrap: replaced(OpList, 1, "2026-01-02T03:04:05.000Z", "yesterday")},
		{Op: OpList, Fault: "folders in place of objects", wrap: rowsChanged(func([]string) []string { return []string{"<CommonPrefixes><Prefix>v/a/</Prefix></CommonPrefixes>"} })},
		{Op: OpList, Fault: "escaped keys without a word", Works: true, wrap: rowsChanged(func(rows []string) []string {
			for i, r := range rows {
				key, _, _ := strings.Cut(strings.TrimPrefix(r, "<Contents><Key>"), "</Key>")
				rows[i] = strings.Replace(r, key, strings.ReplaceAll(key, "/", "%2F"), 1)
			}
			return rows
		})},
	}
}

// dropElement leaves an element out of lists.
func dropElement(name string) func(http.Handler) http.Handler {
	return change(OpList, 1, always, func(_ *http.Request, a *answered) {
		for {
			head, rest, ok := strings.Cut(a.body, "<"+name+">")
			_, tail, end := strings.Cut(rest, "</"+name+">")
			if !ok || !end {
				return
			}
			a.body = head + tail
		}
	})
}

// rowsChanged changes the rows of pages that have some.
func rowsChanged(f func(rows []string) []string) func(http.Handler) http.Handler {
	return change(OpList, 1, always, func(_ *http.Request, a *answered) {
		head, rest, ok := strings.Cut(a.body, "<Contents>")
		if !ok {
			return
		}
		end := strings.LastIndex(rest, "</Contents>")
		var rows []string
		for _, r := range strings.Split(rest[:end], "</Contents><Contents>") {
			rows = append(rows, "<Contents>"+r+"</Contents>")
		}
		a.body = head + strings.Join(f(rows), "") + rest[end+len("</Contents>"):]
	})
}

// reads are answers to GET and HEAD.
func reads() []Misbehaviour {
	capped := func(total func(size int) string) func(http.Handler) http.Handler {
		return meet(OpGet, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			var first, last int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err == nil && last-first >= 64<<10 {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, first+64<<10-1))
			}
			a := record(next, r)
			if span, size, ok := strings.Cut(a.header.Get("Content-Range"), "/"); ok {
				n, _ := strconv.Atoi(size)
				a.header.Set("Content-Range", span+"/"+total(n))
			}
			a.write(w, r)
		})
	}
	header := func(op Op, name, value string) func(http.Handler) http.Handler {
		return change(op, 1, always, func(_ *http.Request, a *answered) {
			if a.header.Del(name); value != "" {
				a.header.Set(name, value)
			}
		})
	}
	both := []Op{OpGet, OpHead}
	var all []Misbehaviour
	for _, op := range both {
		all = append(all, []Misbehaviour{
			{Op: op, Fault: "200 with the page of a gateway", wrap: page(op, 1, always, 200, htmlType, htmlPage)},
			{Op: op, Fault: "200 with the page of a gateway, once", Works: true, wrap: page(op, 1, 1, 200, htmlType, htmlPage)},
			{Op: op, Fault: "404 once for what was just put", Works: true, wrap: page(op, 1, 1, 404, xmlType, fmt.Sprintf(errorPage, "NoSuchKey"))},
			{Op: op, Fault: "404 with the page of an ingress", wrap: page(op, 1, always, 404, htmlType, htmlPage)},
			{Op: op, Fault: "404 with the page of an ingress, once", Works: true, wrap: page(op, 1, 1, 404, htmlType, htmlPage)},
			{Op: op, Fault: "no Last-Modified", Works: true, wrap: header(op, "Last-Modified", "")},
			{Op: op, Fault: "Last-Modified of another form", Works: true, wrap: header(op, "Last-Modified", "2026-01-02T03:04:05Z")},
			{Op: op, Fault: "Expires of another form", Works: true, wrap: header(op, "Expires", "0")},
			{Op: op, Fault: "no ETag", Works: true, wrap: header(op, "ETag", "")},
			{Op: op, Fault: "Content-Encoding of a gateway", wrap: header(op, "Content-Encoding", "gzip")},
			{Op: op, Fault: "503 once", Works: true, wrap: page(op, 1, 1, 503, xmlType, fmt.Sprintf(errorPage, "SlowDown"))},
			{Op: op, Fault: "no answer, once", Works: true, wrap: meet(op, 1, 1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { hangUp(w) })},
			{Op: op, Fault: "late, once", Works: true, Late: true, wrap: meet(op, 1, 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				late(r)
				next.ServeHTTP(w, r)
			})},
		}...)
	}
	return append(all, []Misbehaviour{
		{Op: OpGet, Fault: "Range is ignored", wrap: without(OpGet, "Range")},
		{Op: OpGet, Fault: "answers are capped at 64 KiB", Works: true, wrap: capped(strconv.Itoa)},
		{Op: OpGet, Fault: "answers are capped at 64 KiB and do not tell the size", Works: true, wrap: capped(func(int) string { return "*" })},
		{Op: OpGet, Fault: "a range without the size", Works: true, wrap: change(OpGet, 1, always, func(_ *http.Request, a *answered) {
			if span, _, ok := strings.Cut(a.header.Get("Content-Range"), "/"); ok {
				a.header.Set("Content-Range", span+"/*")
			}
		})},
		{Op: OpGet, Fault: "another range than asked for", wrap: meet(OpGet, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("Range", "bytes=1-3")
			next.ServeHTTP(w, r)
		})},
		{Op: OpGet, Fault: "a range that is no range", wrap: header(OpGet, "Content-Range", "bytes many")},
		{Op: OpGet, Fault: "416 for bytes that are there", wrap: meet(OpGet, 1, always, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Range", "bytes */10000000")
			fault(w, 416, "InvalidRange")
		})},
		{Op: OpGet, Fault: "an archive class", wrap: page(OpGet, 1, always, 403, xmlType, fmt.Sprintf(errorPage, "InvalidObjectState"))},
		{Op: OpGet, Fault: "a key that is disabled", wrap: page(OpGet, 1, always, 400, xmlType, fmt.Sprintf(errorPage, "KMS.DisabledException"))},
		{Op: OpGet, Fault: "cut once", Works: true, wrap: meet(OpGet, 1, 1, cutAnswer)},
		{Op: OpGet, Fault: "cut every other time", Works: true, wrap: func(next http.Handler) http.Handler {
			n := 0
			return meet(OpGet, 1, always, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if n++; n%2 == 1 {
					cutAnswer(w, r, next)
				}
				next.ServeHTTP(w, r)
			})(next)
		}},
		{Op: OpGet, Fault: "a flipped bit", Works: true, Damages: true, wrap: change(OpGet, 1, 1, flip)},
		{Op: OpHead, Fault: "no length", wrap: header(OpHead, "Content-Length", "")},
		{Op: OpHead, Fault: "403 without a word", wrap: page(OpHead, 1, always, 403, "", "")},
	}...)
}

// puts are answers to PUT.
func puts() []Misbehaviour {
	const condition, crc = "If-None-Match", "X-Amz-Checksum-Crc64nvme"
	return []Misbehaviour{
		{Op: OpPut, Fault: "200 with the page of a gateway", wrap: page(OpPut, 1, always, 200, htmlType, htmlPage)},
		{Op: OpPut, Fault: "200 with an error document", wrap: page(OpPut, 1, always, 200, xmlType, fmt.Sprintf(errorPage, "InternalError"))},
		{Op: OpPut, Fault: "200 with an error document, once", Works: true, wrap: page(OpPut, 1, 1, 200, xmlType, fmt.Sprintf(errorPage, "InternalError"))},
		{Op: OpPut, Fault: "the condition is ignored", Works: true, wrap: without(OpPut, condition)},
		{Op: OpPut, Fault: "the condition is not implemented", Works: true, wrap: refuses(OpPut, condition, 501, "NotImplemented")},
		{Op: OpPut, Fault: "the condition is an invalid argument", Works: true, wrap: refuses(OpPut, condition, 400, "InvalidArgument")},
		{Op: OpPut, Fault: "the condition is a bad request", Works: true, wrap: refuses(OpPut, condition, 400, "BadRequest")},
		{Op: OpPut, Fault: "the condition is not allowed", Works: true, wrap: refuses(OpPut, condition, 405, "MethodNotAllowed")},
		{Op: OpPut, Fault: "the condition never holds", wrap: refuses(OpPut, condition, 412, "PreconditionFailed")},
		{Op: OpPut, Fault: "the checksum is an invalid request", Works: true, wrap: refuses(OpPut, crc, 400, "InvalidRequest")},
		{Op: OpPut, Fault: "the checksum is passed over", Works: true, wrap: without(OpPut, crc)},
		{Op: OpPut, Fault: "stored, and the answer is lost, once", Works: true, wrap: stored(OpPut, 1, 1, hangUp)},
		{Op: OpPut, Fault: "stored, and the answers are lost", Works: true, wrap: stored(OpPut, 1, always, hangUp)},
		{Op: OpPut, Fault: "stored, and 500", Works: true, wrap: stored(OpPut, 1, always, answers(500, "InternalError"))},
		{Op: OpPut, Fault: "stored late", Works: true, Late: true, wrap: meet(OpPut, 1, 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			a := record(next, r)
			late(r)
			a.write(w, r)
		})},
		{Op: OpPut, Fault: "503 once", Works: true, wrap: page(OpPut, 1, 1, 503, xmlType, fmt.Sprintf(errorPage, "SlowDown"))},
		{Op: OpPut, Fault: "a quota is used up", wrap: page(OpPut, 1, always, 403, xmlType, fmt.Sprintf(errorPage, "QuotaExceeded"))},
		{Op: OpPut, Fault: "an answer before the body was read", wrap: meet(OpPut, 1, always, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Connection", "close")
			fault(w, 403, "AccessDenied")
		})},
		{Op: OpPut, Fault: "an ETag that is not the MD5", Works: true, wrap: change(OpPut, 1, always, func(_ *http.Request, a *answered) {
			a.header.Set("ETag", `"0123456789abcdef0123456789abcdef"`)
		})},
	}
}

// deletes are answers to DELETE and to the request that deletes many.
func deletes() []Misbehaviour {
	one := func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, "<DeleteResult><Error><Key>v/a/1</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>")
	}
	return []Misbehaviour{
		{Op: OpDelete, Fault: "200 with the page of a gateway", wrap: page(OpDelete, 1, always, 200, htmlType, htmlPage)},
		{Op: OpDelete, Fault: "404 for what is not there", Works: true, wrap: stored(OpDelete, 1, always, answers(404, "NoSuchKey"))},
		{Op: OpDelete, Fault: "done, and the answer is lost, once", Works: true, wrap: stored(OpDelete, 1, 1, hangUp)},
		{Op: OpDeleteBatch, Fault: "200 with the page of a gateway", wrap: page(OpDeleteBatch, 1, always, 200, htmlType, htmlPage)},
		{Op: OpDeleteBatch, Fault: "200 with nothing", wrap: change(OpDeleteBatch, 1, always, emptied)},
		{Op: OpDeleteBatch, Fault: "200 with an error document", wrap: page(OpDeleteBatch, 1, always, 200, xmlType, fmt.Sprintf(errorPage, "InternalError"))},
		{Op: OpDeleteBatch, Fault: "one object stays", wrap: meet(OpDeleteBatch, 1, always, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body)
			one(w)
		})},
		{Op: OpDeleteBatch, Fault: "not implemented", Works: true, wrap: page(OpDeleteBatch, 1, always, 501, xmlType, fmt.Sprintf(errorPage, "NotImplemented"))},
		{Op: OpDeleteBatch, Fault: "a bad request", Works: true, wrap: page(OpDeleteBatch, 1, always, 400, xmlType, fmt.Sprintf(errorPage, "BadRequest"))},
		{Op: OpDeleteBatch, Fault: "not allowed", Works: true, wrap: page(OpDeleteBatch, 1, always, 405, xmlType, fmt.Sprintf(errorPage, "MethodNotAllowed"))},
	}
}
