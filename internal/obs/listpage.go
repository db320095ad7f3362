package obs

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// maxDocument is the longest document that a store may answer with, in bytes: 1000
	// rows with keys of 1024 bytes, each of them escaped, have less than half of it.
	maxDocument = 16 << 20
	// fullPage is how many rows a page has at most where the server does not say.
	fullPage = 1000
)

// listPage is one page of a list, as the server answered it.
type listPage struct {
	here      bool
	rows      []listRow
	truncated bool
	token     string // of the next page; "" for none
	most      int    // how many rows a page may have
	more      bool   // another page may follow
}

// listRow is one object in a page.
type listRow struct {
	Key           string
	Size          string
	LastModified  string
	StorageClass  string
	RestoreStatus struct {
		IsRestoreInProgress bool
		RestoreExpiryDate   string
	}

	size     int64
	modified time.Time
}

// listDocument is a page in the words of S3, version 1 and 2.
type listDocument struct {
	XMLName               xml.Name
	Prefix                *string
	EncodingType          string
	IsTruncated           string
	KeyCount              string
	MaxKeys               string
	NextContinuationToken string
	NextMarker            string
	Contents              []listRow
	CommonPrefixes        []struct{ Prefix string }
}

// full tells whether the page has as many rows as one may have.
func (p *listPage) full() bool { return len(p.rows) > 0 && len(p.rows) >= p.most }

// read takes a page from an answer, and leaves an empty one in its place.
func (p *listPage) read(res *http.Response, bucket, prefix string) error {
	body, err := readDocument(res)
	if err != nil {
		return err
	}
	if err := p.parse(body, prefix); err != nil {
		return err
	}
	const nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
	res.Body, res.ContentLength = io.NopCloser(strings.NewReader(nothing)), int64(len(nothing))
	return nil
}

// parse checks the form of a page: an answer with another document must not be taken
// for a list without objects.
func (p *listPage) parse(body []byte, prefix string) error {
	var doc listDocument
	if err := parseDocument(body, "ListBucketResult", &doc); err != nil {
		return err
	}
	bad := func(form string, args ...any) error { return odd("a page of the list "+form, args...) }
	decode := doc.EncodingType == "url"
	if doc.Prefix != nil && *doc.Prefix != prefix {
		if plain, err := url.QueryUnescape(*doc.Prefix); err != nil || plain != prefix {
			return bad("is for the prefix %q, asked for was %q", *doc.Prefix, prefix)
		}
	}
	if len(doc.CommonPrefixes) > 0 {
		return bad("has folders in place of objects")
	}
	p.most = fullPage
	if n, err := strconv.Atoi(doc.MaxKeys); err == nil && n > 0 && n < fullPage {
		p.most = n
	}
	if n, err := strconv.Atoi(doc.KeyCount); err == nil && n > len(doc.Contents) {
		return bad("says that it has %d objects, and has %d", n, len(doc.Contents))
	}
	switch strings.TrimSpace(doc.IsTruncated) {
	case "true", "True", "TRUE", "1":
		p.truncated = true
	case "false", "False", "FALSE", "0", "":
	default:
		return bad("does not say whether another one follows: IsTruncated is %q", doc.IsTruncated)
	}
	p.token, p.rows, p.here = doc.NextContinuationToken, doc.Contents, true
	for i := range p.rows {
		row := &p.rows[i]
		if err := row.complete(prefix, decode); err != nil {
			return bad("%w", err)
		}
	}
	return nil
}

// complete decodes the key, the size and the time of a row, and checks them.
func (r *listRow) complete(prefix string, decode bool) error {
	// Some servers escape keys and do not say so. A key of ours has no percent sign.
	if decode || strings.Contains(r.Key, "%") {
		if plain, err := url.QueryUnescape(r.Key); err == nil {
			r.Key = plain
		} else if decode {
			return fmt.Errorf("has the key %q, which is not escaped as the page says", r.Key)
		}
	}
	if !strings.HasPrefix(r.Key, prefix) || r.Key == "" {
		return fmt.Errorf("has the key %q, which does not begin with the prefix %q", r.Key, prefix)
	}
	var err error
	if r.size, err = strconv.ParseInt(strings.TrimSpace(r.Size), 10, 64); err != nil || r.size < 0 {
		return fmt.Errorf("has the key %q with the size %q", r.Key, r.Size)
	}
	r.modified = rowTime(strings.TrimSpace(r.LastModified))
	return nil
}

// readDocument reads the whole of an answer that is a document.
func readDocument(res *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	_ = res.Body.Close()
	switch {
	case err != nil:
		return nil, &unavailableError{err: fmt.Errorf("the answer broke off: %w", err)}
	case len(body) > maxDocument:
		return nil, odd("the answer is longer than %d bytes", maxDocument)
	}
	return body, nil
}

// parseDocument decodes a document whose root element has that name. An error
// document, which some servers send with the status 200, is that error.
func parseDocument(body []byte, root string, into any) error {
	d := xml.NewDecoder(bytes.NewReader(body))
	for {
		token, err := d.Token()
		if err != nil {
			return odd("the answer is %s and no %s", excerpt(body), root)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch start.Name.Local {
		case root:
			if err := d.DecodeElement(into, &start); err != nil {
				return odd("the %s can't be read to its end: %w", root, err)
			}
			return trailing(d, root)
		case "Error":
			var res minio.ErrorResponse
			if err := d.DecodeElement(&res, &start); err == nil && res.Code != "" {
				res.StatusCode = http.StatusOK
				return res
			}
		}
		return odd("the answer is %s and no %s", excerpt(body), root)
	}
}

// trailing refuses a second element behind a document.
func trailing(d *xml.Decoder, root string) error {
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		_, element := token.(xml.StartElement)
		if err != nil || element {
			return odd("something follows behind the %s", root)
		}
	}
}

// excerpt shows the beginning of an answer in a message.
func excerpt(body []byte) string {
	if len(body) == 0 {
		return "empty"
	}
	const most = 60
	if len(body) > most {
		return fmt.Sprintf("%q…", body[:most])
	}
	return fmt.Sprintf("%q", body)
}
