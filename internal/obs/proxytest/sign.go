package proxytest

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The payload modes of AWS signature version 4 that OBS takes.
const (
	unsigned  = "UNSIGNED-PAYLOAD"
	streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
)

const stampForm = "20060102T150405Z"

// emptySHA256 is the digest of no bytes, as requests without a body have it.
var emptySHA256 = hexSHA256(nil)

// authorization is a parsed Authorization header.
type authorization struct {
	key, day, region string
	signed           []string // names of headers, lower case
	signature        string
}

func parseAuthorization(text string) (a authorization, ok bool) {
	rest, ok := strings.CutPrefix(text, "AWS4-HMAC-SHA256 ")
	if !ok {
		return a, false
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "Credential":
			scope := strings.Split(value, "/")
			if len(scope) != 5 || scope[3] != "s3" || scope[4] != "aws4_request" {
				return a, false
			}
			a.key, a.day, a.region = scope[0], scope[1], scope[2]
		case "SignedHeaders":
			a.signed = strings.Split(value, ";")
		case "Signature":
			a.signature = value
		}
	}
	return a, a.key != "" && len(a.signed) > 0 && a.signature != ""
}

func (a authorization) scope() string { return a.day + "/" + a.region + "/s3/aws4_request" }

// sign computes the signature of a request.
func (a authorization) sign(r *http.Request, secret string) string {
	var headers strings.Builder
	for _, name := range a.signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	canonical := strings.Join([]string{
		r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"),
		headers.String(), strings.Join(a.signed, ";"), r.Header.Get("X-Amz-Content-Sha256"),
	}, "\n")
	return a.mac(secret, "AWS4-HMAC-SHA256\n"+r.Header.Get("X-Amz-Date")+"\n"+a.scope()+"\n"+hexSHA256([]byte(canonical)))
}

func (a authorization) mac(secret, text string) string {
	key := []byte("AWS4" + secret)
	for _, part := range []string{a.day, a.region, "s3", "aws4_request"} {
		key = hmacSHA256(key, part)
	}
	return hex.EncodeToString(hmacSHA256(key, text))
}

// unsignedHeader names a header of r that has to be signed and is not; "" where there is none.
func (a authorization) unsignedHeader(r *http.Request) string {
	for name := range r.Header {
		name = strings.ToLower(name)
		if (strings.HasPrefix(name, "x-amz-") || strings.HasPrefix(name, "x-obs-")) && !slices.Contains(a.signed, name) {
			return name
		}
	}
	return ""
}

var errChunk = errors.New("a chunk's signature does not match")

// readChunks reads a body whose chunks are signed, each over the one before.
func (a authorization) readChunks(r *http.Request, secret string) ([]byte, error) {
	in := bufio.NewReader(r.Body)
	before := a.signature
	var all bytes.Buffer
	for {
		head, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, signature, _ := strings.Cut(strings.TrimSpace(head), ";chunk-signature=")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil {
			return nil, err
		}
		chunk := make([]byte, n)
		if _, err := io.ReadFull(in, chunk); err != nil {
			return nil, err
		}
		want := a.mac(secret, strings.Join([]string{
			"AWS4-HMAC-SHA256-PAYLOAD", r.Header.Get("X-Amz-Date"), a.scope(), before, emptySHA256, hexSHA256(chunk),
		}, "\n"))
		if signature != want {
			return nil, errChunk
		}
		before = want
		if _, err := in.Discard(len("\r\n")); err != nil {
			return nil, err
		}
		if n == 0 {
			return all.Bytes(), nil
		}
		all.Write(chunk)
	}
}

// Sign signs a request as an S3 client does, with all the headers that it
// has. mode is the payload mode; key and region are whom it is from and for.
func Sign(r *http.Request, mode, access string, key Key, region string, now time.Time) {
	r.Header.Set("X-Amz-Date", now.UTC().Format(stampForm))
	r.Header.Set("X-Amz-Content-Sha256", mode)
	if key.Token != "" {
		r.Header.Set("X-Amz-Security-Token", key.Token)
	}
	a := authorization{key: access, day: now.UTC().Format("20060102"), region: region, signed: []string{"host"}}
	for name := range r.Header {
		a.signed = append(a.signed, strings.ToLower(name))
	}
	slices.Sort(a.signed)
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		access, a.scope(), strings.Join(a.signed, ";"), a.sign(r, key.Secret)))
}

func hexSHA256(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// escape is the path of an object in a URL.
func escape(bucket, key string) string {
	return (&url.URL{Path: "/" + bucket + "/" + key}).EscapedPath()
}
