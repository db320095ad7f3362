package obs

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// regionForm keeps a region from becoming another host.
var regionForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

const (
	amazonEndpoint = "https://s3.amazonaws.com"
	// customRegion is the region that self-hosted servers sign for, unless told otherwise.
	customRegion = "us-east-1"
)

// bucketURL is an s3 or obs URL in its parts.
type bucketURL struct {
	bucket, prefix string
	endpoint       *url.URL
	region         string
	lookup         minio.BucketLookupType
	put            putOptions
	connect        connectOptions
	canonical      string
}

func parseBucketURL(u *url.URL, d dialect, getenv func(string) string) (bucketURL, error) {
	known := append([]string{"endpoint", "region", "integrity", "encryption", "kms-key", "class", "retain"}, connectParameters...)
	if d.scheme == dialectOBS.scheme {
		known = append(known, "traffic-limit")
	} else {
		known = append(known, "addressing") // OBS knows virtual-hosted addresses only
	}
	var b bucketURL
	q, err := parameters(u, known...)
	if err != nil {
		return b, err
	}
	b.bucket = u.Host
	if err := s3utils.CheckValidBucketNameStrict(b.bucket); err != nil {
		return b, fmt.Errorf("%w: store URL: bucket %q: %w", ErrUsage, b.bucket, err)
	}
	if b.prefix = strings.Trim(u.Path, "/"); b.prefix != "" {
		if err := KeyValid(b.prefix); err != nil {
			return b, fmt.Errorf("store URL: prefix: %w", err)
		}
		b.prefix += "/"
	}
	b.region = q["region"]
	endpoint := q["endpoint"]
	switch {
	case d.scheme == dialectOBS.scheme && b.region == "":
		return b, fmt.Errorf("%w: store URL: obs needs the parameter region", ErrUsage)
	case d.scheme == dialectOBS.scheme && endpoint == "":
		endpoint = "https://obs." + b.region + ".myhuaweicloud.com"
	case endpoint == "":
		endpoint = amazonEndpoint
		for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
			if b.region == "" {
				b.region = getenv(name)
			}
		}
	case b.region == "":
		b.region = customRegion
	}
	if b.region != "" && !regionForm.MatchString(b.region) {
		return b, fmt.Errorf("%w: store URL: region %q", ErrUsage, b.region)
	}
	if b.endpoint, err = parseEndpoint(endpoint); err != nil {
		return b, err
	}
	switch q["addressing"] {
	case "", "auto":
		b.lookup = minio.BucketLookupAuto
		if d.scheme == dialectOBS.scheme {
			b.lookup = minio.BucketLookupDNS
		}
	case "path":
		b.lookup = minio.BucketLookupPath
	case "virtual":
		if net.ParseIP(b.endpoint.Hostname()) != nil {
			return b, fmt.Errorf("%w: store URL: addressing=virtual needs an endpoint with a name, not %s", ErrUsage, b.endpoint.Host)
		}
		b.lookup = minio.BucketLookupDNS
	default:
		return b, fmt.Errorf("%w: store URL: addressing %q, want auto, path or virtual", ErrUsage, q["addressing"])
	}
	if b.put, err = parsePutOptions(q, d); err != nil {
		return b, err
	}
	if b.connect, err = parseConnectOptions(q, getenv); err != nil {
		return b, err
	}
	values := url.Values{}
	for name, v := range q {
		values.Set(name, v)
	}
	b.canonical = (&url.URL{
		Scheme: d.scheme, Host: b.bucket, Path: "/" + strings.TrimSuffix(b.prefix, "/"),
		// A query may have ':' and '/' as they are (RFC 3986, section 3.4), and people read this.
		RawQuery: strings.NewReplacer("%3A", ":", "%2F", "/").Replace(values.Encode()),
	}).String()
	return b, nil
}

func parseEndpoint(text string) (*url.URL, error) {
	e, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: store URL: the endpoint can't be parsed", ErrUsage)
	case e.User != nil:
		return nil, fmt.Errorf("%w: store URL: the endpoint has a user or password", ErrUsage)
	case e.Scheme != "https" && e.Scheme != "http" || e.Host == "" || e.Path != "" && e.Path != "/" || e.RawQuery != "":
		return nil, fmt.Errorf("%w: store URL: endpoint of scheme %q and host %q, want https://host[:port] and no more", ErrUsage, e.Scheme, e.Host)
	}
	return e, nil
}

// noWaits ends the waits of the client library, which waits after its last try
// as well, while the call holds a slot of the limiter. Retry does the waiting.
var noWaits = sync.OnceFunc(func() { minio.DefaultRetryUnit = 0 })

func openBucket(ctx context.Context, u *url.URL, d dialect, opts Options) (Store, error) {
	noWaits()
	b, err := parseBucketURL(u, d, opts.Getenv)
	if err != nil {
		return nil, err
	}
	creds, err := findCredentials(ctx, d, opts.Getenv)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", b.canonical, err)
	}
	stall := opts.Stall
	if stall <= 0 {
		stall = stallTimeout
	}
	build := func(o connectOptions) *http.Transport {
		made := newTransport(o, stall, opts.Limiter)
		if opts.transport != nil {
			opts.transport(made)
		}
		return made
	}
	var transport http.RoundTripper
	var closeIdle func()
	if b.connect.caFile != "" {
		a := newAuthorities(b.connect, build)
		transport, closeIdle = a, a.closeIdle
	} else {
		a := newAfreshTransport(build(b.connect))
		transport, closeIdle = a, a.next.CloseIdleConnections
	}
	client, err := minio.NewCore(b.endpoint.Host, &minio.Options{
		Creds:        creds,
		Secure:       b.endpoint.Scheme == "https",
		Transport:    extraTransport{answerTransport{transport, stall}, creds, b.region},
		Region:       b.region,
		BucketLookup: b.lookup,
		// Retry decides, and reports. The client would repeat without telling.
		MaxRetries: 1,
		// OBS refuses requests with trailers.
		TrailingHeaders: false,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: store URL: %w", ErrUsage, err)
	}
	s := &s3Store{
		dialect: d, client: client, bucket: b.bucket, prefix: b.prefix, name: b.canonical,
		endpoint: b.endpoint.Host, creds: creds,
		idle: closeIdle, stall: stall,
	}
	s.put.putOptions, s.put.retention = b.put, opts.Retention
	s.life, s.close = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

// The range of a traffic limit of OBS in bit/s, and of a retention that is worth its cost.
const (
	minTraffic, maxTraffic = 819_200, 838_860_800
	minRetain, maxRetain   = time.Minute, 100 * 365 * 24 * time.Hour
)

// classForm keeps the name of a storage class from becoming another header.
var classForm = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,31}$`)

// keyForm is the form of ids, aliases and ARNs of KMS keys.
var keyForm = regexp.MustCompile(`^[A-Za-z0-9:/_.-]{1,256}$`)

// parsePutOptions reads the wishes of a URL for each put.
func parsePutOptions(q map[string]string, d dialect) (p putOptions, err error) {
	bad := func(name, want string) error {
		return fmt.Errorf("%w: store URL: %s %q, want %s", ErrUsage, name, q[name], want)
	}
	known := []string{integrityAuto, integrityCRC64, integrityCRC32C, integritySHA256, integrityMD5}
	if d.scheme == dialectOBS.scheme {
		known = []string{integrityMD5, integritySHA256}
	}
	if p.integrity = q["integrity"]; p.integrity == "" {
		p.integrity = d.integrity
	}
	p.encryption, p.kmsKey, p.storageClass = q["encryption"], q["kms-key"], q["class"]
	switch {
	case !slices.Contains(known, p.integrity):
		return p, bad("integrity", strings.Join(known, ", "))
	case p.encryption != "" && p.encryption != "kms" && p.encryption != "AES256":
		return p, bad("encryption", "kms or AES256")
	case p.kmsKey != "" && (p.encryption != "kms" || !keyForm.MatchString(p.kmsKey)):
		return p, bad("kms-key", "the id of a key, beside encryption=kms")
	case p.storageClass != "" && !classForm.MatchString(p.storageClass):
		return p, bad("class", "the name of a storage class, in capitals")
	case coldClasses[p.storageClass]:
		return p, bad("class", "one whose objects can be read at any time: a backup is read back before it counts")
	}
	if text := q["retain"]; text != "" {
		if p.retain, err = parseDays(text); err != nil || p.retain < minRetain || p.retain > maxRetain {
			return p, bad("retain", "a time such as 30d or 12h, from a minute to 100 years")
		}
	}
	if text := q["traffic-limit"]; text != "" {
		if p.trafficLimit, err = strconv.ParseInt(text, 10, 64); err != nil || p.trafficLimit < minTraffic || p.trafficLimit > maxTraffic {
			return p, bad("traffic-limit", fmt.Sprintf("bit/s of one connection, from %d to %d", minTraffic, maxTraffic))
		}
	}
	return p, nil
}

// parseDays reads a duration that may be in days ("30d").
func parseDays(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}
