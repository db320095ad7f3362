package obs

import (
	"context"
	"crypto/md5" //nolint:gosec // OBS verifies it; not for secrecy
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
)

// The digests that a server can verify, as URLs and Capabilities name them.
const (
	integrityAuto   = "auto"
	integritySHA256 = "sha256"
	integrityMD5    = "md5"
	integrityCRC64  = "crc64nvme"
	integrityCRC32C = "crc32c"
)

// putOptions are the wishes of a store's URL for each put.
type putOptions struct {
	integrity    string
	encryption   string // "", "kms" or "AES256"
	kmsKey       string // of kms; "" is the account's default key
	storageClass string
	retain       time.Duration // 0 is no retention
	trafficLimit int64         // bit/s of one connection; 0 is any
}

// checksums are the S3 checksums that cost least; each is the whole object's.
var checksums = map[string]minio.ChecksumType{
	integrityCRC64: minio.ChecksumCRC64NVME, integrityCRC32C: minio.ChecksumCRC32C,
}

// putter holds how the server of a bucket takes puts, as far as its answers have shown.
type putter struct {
	putOptions
	retention func(key string, asked time.Duration) time.Duration // as in Options
	// checksumOff is set when the server turns out not to verify the
	// checksum; checksumSeen when it did.
	checksumOff, checksumSeen atomic.Bool
	// etagOther is set when the server's ETag turned out not to be the MD5 of the stored bytes.
	etagOther atomic.Bool

	mu sync.Mutex
	// verifies, holds and extends are set when the server was seen to
	// verify x-obs-content-sha256, to keep a retention and to prolong one.
	verifies, holds, extends bool
}

// send makes one PUT of known size, whose content the server verifies before it answers.
func (s *s3Store) send(c *call, body []byte, fresh bool) error {
	if s.scheme == dialectOBS.scheme {
		return s.sendOBS(c, body)
	}
	opts := s.optionsS3(c.key)
	if fresh {
		opts.SetMatchETagExcept("*")
	}
	return s.sendS3(c, body, opts)
}

// optionsS3 puts the wishes of the URL into the words of S3.
func (s *s3Store) optionsS3(key string) minio.PutObjectOptions {
	opts := minio.PutObjectOptions{StorageClass: s.put.storageClass, UserMetadata: map[string]string{}}
	switch s.put.encryption {
	case "kms":
		// fails for a context only
		opts.ServerSideEncryption, _ = encrypt.NewSSEKMS(s.put.kmsKey, nil)
	case "AES256":
		opts.ServerSideEncryption = encrypt.NewSSE()
	}
	if retain := s.put.retains(key); retain > 0 {
		opts.Mode, opts.RetainUntilDate = minio.Compliance, time.Now().Add(retain)
	}
	return opts
}

// sendS3 lets the server verify a CRC where it does, and the SHA-256
// of the payload otherwise. Whether it does shows in its answer, which
// repeats a checksum that was verified. Until one did, both are sent.
func (s *s3Store) sendS3(c *call, body []byte, opts minio.PutObjectOptions) error {
	integrity := s.put.integrity
	if integrity == integrityAuto {
		integrity = integrityCRC64
		if s.put.checksumOff.Load() {
			integrity = integritySHA256
		}
	}
	kind, crc := checksums[integrity]
	var crcText, shaHex, md5Text string
	if crc {
		crcText = kind.EncodeToString(body)
		opts.UserMetadata[kind.Key()] = crcText
	}
	if integrity == integrityMD5 {
		_, md5Text = md5Of(body)
	}
	if integrity == integritySHA256 || s.put.integrity == integrityAuto && !s.put.checksumSeen.Load() {
		sum := sha256.Sum256(body)
		shaHex = hex.EncodeToString(sum[:])
		// the same digest where S3 asks for one beside the signature: of objects with a lock
		if !crc {
			opts.UserMetadata[minio.ChecksumSHA256.Key()] = base64.StdEncoding.EncodeToString(sum[:])
		}
	}
	opts.DisableContentSha256 = true // no chunks with a signature each: one digest is enough
	_, err := s.putBody(c, body, md5Text, shaHex, opts)
	if crc && s.put.integrity == integrityAuto && unknownHeader(err) {
		s.put.checksumOff.Store(true)
		delete(opts.UserMetadata, kind.Key())
		if err = s.sendS3(c, body, opts); unknownHeader(err) {
			s.put.checksumOff.Store(false) // it was not the checksum over which the server stumbled
		}
		return err
	}
	if err != nil {
		return err
	}
	switch confirmed := c.said.get(kind.Key()) == crcText; {
	case !crc:
	case confirmed:
		s.put.checksumSeen.Store(true)
	case shaHex != "": // verified all the same
		s.put.checksumOff.Store(true)
	case s.put.integrity == integrityAuto:
		s.put.checksumOff.Store(true)
		return &unavailableError{resend: true, err: fmt.Errorf("the server did not confirm the %s of what it stored", integrity)}
	default:
		return fmt.Errorf("%w: the server does not verify %s: integrity=sha256 may do", ErrUsage, integrity)
	}
	if s.put.encryption != "" && c.said.get("X-Amz-Server-Side-Encryption") == "" {
		return errNotEncrypted
	}
	return s.confirmRetention(c)
}

// errNotEncrypted is an error and no warning, since the operator relies on the encryption.
var errNotEncrypted = fmt.Errorf("%w: the server stored the object, but did not say that it encrypted it as the store's URL asks", ErrUsage)

// unknownHeader tells the answers of servers that stumble over a checksum that they do not know.
func unknownHeader(err error) bool {
	return slices.Contains([]string{"InvalidRequest", "InvalidArgument", "NotImplemented"}, minio.ToErrorResponse(err).Code)
}

// sendOBS has Content-MD5 verified or, when the URL says so, x-obs-content-sha256.
func (s *s3Store) sendOBS(c *call, body []byte) error {
	extra := http.Header{}
	set := func(name, value string) {
		if value != "" {
			extra.Set("X-Obs-"+name, value)
		}
	}
	set("Server-Side-Encryption", s.put.encryption)
	set("Server-Side-Encryption-Kms-Key-Id", s.put.kmsKey)
	set("Storage-Class", s.put.storageClass)
	if s.put.trafficLimit > 0 {
		set("Traffic-Limit", strconv.FormatInt(s.put.trafficLimit, 10))
	}
	if retain := s.put.retains(c.key); retain > 0 {
		set("Object-Lock-Mode", modeCompliance)
		set("Object-Lock-Retain-Until-Date", time.Now().Add(retain).UTC().Format(time.RFC3339))
	}
	var md5Hex, md5Text string
	if s.put.integrity == integritySHA256 {
		if err := s.mustVerifySHA256(c); err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		set("Content-Sha256", hex.EncodeToString(sum[:]))
	} else {
		md5Hex, md5Text = md5Of(body)
	}
	c.extra = extra
	info, err := s.putBody(c, body, md5Text, "", minio.PutObjectOptions{DisableContentSha256: true})
	if err != nil {
		return err
	}
	encrypted := c.said.get("X-Obs-Server-Side-Encryption") != "" || c.said.get("X-Amz-Server-Side-Encryption") != ""
	if s.put.encryption != "" && !encrypted {
		return errNotEncrypted
	}
	// Unless the server encrypts, the ETag is the MD5: a second witness, where it has that form.
	if !encrypted && md5Hex != "" && len(info.ETag) == len(md5Hex) && !strings.EqualFold(info.ETag, md5Hex) && !s.otherETag(c, body) {
		return &unavailableError{resend: true, err: fmt.Errorf("the server has ETag %s, sent was %s", info.ETag, md5Hex)}
	}
	return s.confirmRetention(c)
}

// otherETag tells whether the server stored these bytes although its ETag is not their MD5: a
// bucket that encrypts does not always say so. It reads the object back once for each Store.
func (s *s3Store) otherETag(c *call, body []byte) bool {
	if !s.put.etagOther.Load() {
		same, err := holdsSame(c.caller, s, c.key, body)
		s.put.etagOther.Store(err == nil && same)
	}
	return s.put.etagOther.Load()
}

// mustVerifySHA256 offers the server an object with a wrong digest, once
// for each Store. A server that takes it does not look at the digest.
func (s *s3Store) mustVerifySHA256(c *call) error {
	s.put.mu.Lock()
	defer s.put.mu.Unlock()
	if s.put.verifies {
		return nil
	}
	trial := s.begin(c.caller, opPut, "integrity-check/"+rand.Text())
	defer trial.end()
	wrong := sha256.Sum256([]byte("other bytes"))
	trial.extra = http.Header{"X-Obs-Content-Sha256": {hex.EncodeToString(wrong[:])}}
	_, err := s.putBody(trial, []byte("these bytes"), "", "", minio.PutObjectOptions{DisableContentSha256: true})
	if err == nil {
		err = s.client.RemoveObject(trial.ctx, s.bucket, s.prefix+trial.key, minio.RemoveObjectOptions{})
		return errors.Join(fmt.Errorf("%w: the server does not verify x-obs-content-sha256: leave integrity=sha256 out of the store's URL", ErrUsage), err)
	}
	if minio.ToErrorResponse(err).StatusCode != http.StatusBadRequest {
		return err
	}
	s.put.verifies = true
	return nil
}

// putBody sends the bytes, and lets nobody read them when it has returned.
func (s *s3Store) putBody(c *call, body []byte, md5Text, shaHex string, opts minio.PutObjectOptions) (minio.UploadInfo, error) {
	ctx := c.ctx
	if len(c.extra) > 0 {
		ctx = context.WithValue(ctx, extraKey{}, c.extra)
	}
	w := newWatch(ctx, s.stall, len(body), c.cancel)
	defer w.stop()
	b := newPutBody(ctx, w, body)
	defer b.detach()
	info, err := s.client.PutObject(withForm(ctx, quietForm), s.bucket, s.prefix+c.key, b, int64(len(body)), md5Text, shaHex, opts)
	if err == nil {
		s.bucketSeen.Store(true)
		s.fresh.add(c.key)
	}
	return info, err
}

func md5Of(body []byte) (hexText, base64Text string) {
	sum := md5.Sum(body) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:])
}

// retains tells how long the object is to be kept from deletion; 0 is not at all.
func (p *putter) retains(key string) time.Duration {
	if p.retain == 0 || p.retention == nil {
		return p.retain
	}
	return p.retention(key, p.retain)
}

// describe names the checksum that the server verifies, for Capabilities.
func (p *putter) describe() string {
	if p.integrity == integrityAuto {
		return integrityCRC64 + " or " + integritySHA256
	}
	return p.integrity
}
