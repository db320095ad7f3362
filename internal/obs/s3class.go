package obs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// unavailableError is ErrUnavailable with its cause and with how long the server asked to wait.
type unavailableError struct {
	err   error
	after time.Duration
	slow  bool // it asked for fewer requests
	// resend is set of a put that was answered, but not as whole:
	// there is nothing to look for before it is sent again.
	resend bool
}

func (e *unavailableError) Error() string {
	return ErrUnavailable.Error() + ": " + e.err.Error()
}

// Unwrap gives class and cause. A time-out inside the client claims to be context.DeadlineExceeded,
// which to a caller means that its own context ended: that cause is kept as words only.
func (e *unavailableError) Unwrap() []error {
	if errors.Is(e.err, context.DeadlineExceeded) || errors.Is(e.err, context.Canceled) {
		return []error{ErrUnavailable}
	}
	return []error{ErrUnavailable, e.err}
}

// RetryAfter is how long the server asked to wait; 0 where it said nothing.
func (e *unavailableError) RetryAfter() time.Duration { return e.after }

// SlowDown tells whether the server asked for fewer requests.
func (e *unavailableError) SlowDown() bool { return e.slow }

// classByCode is for the error codes whose status tells less, or
// lies. They come from the documents of S3 and OBS and from MinIO.
var classByCode = map[string]error{
	"NoSuchKey":                  ErrNotFound,
	"NoSuchBucket":               ErrNoBucket,
	"PreconditionFailed":         ErrExists,
	"InvalidObjectState":         ErrCold,
	"ObjectNotInActiveTierError": ErrCold,

	"InArrearOrInsufficientBalance":  ErrNoMoney,
	"AccountProblem":                 ErrNoMoney, // "abnormal, for example expired or frozen"
	"FrozenUserId":                   ErrNoMoney,
	"InsufficientStorageSpace":       ErrNoSpace,
	"InsufficientStorage":            ErrNoSpace,
	"ServiceQuotaExceededException":  ErrQuota,
	"QuotaExceeded":                  ErrQuota,
	"XMinioStorageFull":              ErrNoSpace,
	"XMinioAdminBucketQuotaExceeded": ErrQuota,

	"AccessDenied":               ErrAccess,
	"AccessForbidden":            ErrAccess,
	"AllAccessDisabled":          ErrAccess,
	"InvalidAccessKeyId":         ErrWrongKeys,
	"SignatureDoesNotMatch":      ErrWrongKeys,
	"InvalidSecurity":            ErrWrongKeys,
	"DeregisterUserId":           ErrWrongKeys,
	"ExpiredToken":               ErrExpiredKeys,
	"ExpiredTokenException":      ErrExpiredKeys,
	"InvalidToken":               ErrExpiredKeys,
	"TokenRefreshRequired":       ErrExpiredKeys,
	"RequestTimeTooSkewed":       ErrClockSkew,
	"RequestExpired":             ErrClockSkew,
	"PermanentRedirect":          ErrWrongRegion,
	"TemporaryRedirect":          ErrWrongRegion,
	"Redirect":                   ErrWrongRegion,
	"InvalidRegion":              ErrWrongRegion,
	"IllegalLocationConstraint":  ErrWrongRegion,
	"InvalidLocationConstraint":  ErrWrongRegion,
	"XAmzContentSHA256Mismatch":  ErrUnavailable, // damaged on its way; but see classify
	"InvalidBucketName":          ErrUsage,
	"KeyTooLongError":            ErrUsage,
	"KeyTooLong":                 ErrUsage,
	"EntityTooLarge":             ErrUsage,
	"VirtualHostDomainRequired":  ErrUsage,
	"NotImplemented":             errors.ErrUnsupported,
	"OperationAborted":           ErrUnavailable,
	"ConditionalRequestConflict": ErrUnavailable,
	"SlowDown":                   ErrUnavailable,
	"ServiceUnavailable":         ErrUnavailable,
	"InternalError":              ErrUnavailable,
	"RequestTimeout":             ErrUnavailable,
	"BucketExpanding":            ErrUnavailable,
	// The bytes were damaged or cut on their way: the same bytes may arrive whole.
	"BadDigest":                   ErrUnavailable,
	"XAmzContentChecksumMismatch": ErrUnavailable,
	"IncompleteBody":              ErrUnavailable,
}

// classify wraps an error of the client with the class that fits it
// and with the server's own words.
func (s *s3Store) classify(err error, said *answer) error {
	var u *unavailableError
	var of *errorClass
	if errors.As(err, &u) || errors.As(err, &of) { // ours, from within the request
		return err
	}
	var none *credentialsError
	if errors.As(err, &none) {
		if none.had { // they were there before: the service that renews them is away
			return &unavailableError{err: err}
		}
		return fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	var res minio.ErrorResponse
	if !errors.As(err, &res) {
		if noSuchHost(err) { // a name service that is starting may give this answer
			return &againError{fmt.Errorf("%w: %w", ErrNoHost, err), oddTries}
		}
		if permanent(err) {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		return &unavailableError{err: err} // the network: every cut, refusal and time-out
	}
	if res.RequestID == "" {
		res.RequestID = said.get("X-Obs-Request-Id")
	}
	words := fmt.Errorf("%w%s", err, codeOf(res))
	class := classByCode[res.Code]
	switch {
	case class == nil && keyTrouble(res):
		class = ErrKMS
	case class == nil:
		class = classOfStatus(res.StatusCode)
	case res.Code == "XAmzContentSHA256Mismatch" && s.scheme == dialectOBS.scheme:
		class = nil // OBS means by this that it does not take such signatures
	}
	// most often a signature for another region than the bucket's
	if res.Code == "AuthorizationHeaderMalformed" {
		class = ErrWrongRegion
	}
	if class == ErrAccess { //nolint:errorlint // the class itself
		class = classOfRefusal(res)
	}
	skew := said.skew()
	if errors.Is(class, ErrAccess) && skew.Abs() > clockSkew { // the answer to HEAD has no code
		class = ErrClockSkew
	}
	switch class {
	case ErrUnavailable:
		return &unavailableError{err: words, after: said.retryAfter(), slow: res.Code == "SlowDown" || slowStatus(res.StatusCode)}
	case nil:
		return words
	case ErrNoBucket:
		return fmt.Errorf("%w: %s at %s: %w", class, s.bucket, s.endpoint, words)
	case ErrWrongRegion:
		if res.Region != "" {
			return fmt.Errorf("%w: it is in %s: %w", class, res.Region, words)
		}
	case ErrClockSkew:
		if skew != 0 {
			return fmt.Errorf("%w: the store's is ahead by %v: %w", class, skew.Round(time.Second), words)
		}
	}
	return fmt.Errorf("%w: %w", class, words)
}

// keyTrouble tells the errors of a key management service, which
// the codes of S3, OBS and MinIO begin with.
func keyTrouble(res minio.ErrorResponse) bool {
	code := strings.ToUpper(res.Code)
	for _, begin := range []string{"KMS.", "KMS:", "KMSNOT", "KMSKEY", "KMSINVALID", "KMSACCESS", "KMSDISABLED", "XMINIOKMS", "KEYDISABLED", "KEYUNAVAILABLE"} {
		if strings.HasPrefix(code, begin) {
			return true
		}
	}
	return false
}

// classOfRefusal finds out from the server's words why it denied access.
func classOfRefusal(res minio.ErrorResponse) error {
	words := strings.ToLower(res.Message)
	switch {
	case strings.Contains(words, "kms"):
		return ErrKMS
	case strings.Contains(words, "explicit deny"), strings.Contains(words, "denied by policy"), strings.Contains(words, "bucket policy"),
		strings.Contains(words, "service control policy"), strings.Contains(words, "endpoint policy"):
		return ErrPolicy
	}
	return ErrAccess
}

// clockSkew is the difference that stores allow between a request's time and their own.
const clockSkew = 15 * time.Minute

// slowStatus tells the answers by which a store asks for fewer requests.
func slowStatus(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
}

// codeOf is the part of the message by which an operator finds the case in the vendor's documents.
func codeOf(res minio.ErrorResponse) string {
	switch {
	case res.StatusCode == 0:
		return fmt.Sprintf(" (%s)", res.Code)
	case res.RequestID == "":
		return fmt.Sprintf(" (%d %s)", res.StatusCode, res.Code)
	}
	return fmt.Sprintf(" (%d %s, request %s)", res.StatusCode, res.Code, res.RequestID)
}

func classOfStatus(status int) error {
	switch status {
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrAccess
	case http.StatusProxyAuthRequired:
		return ErrProxy
	case http.StatusOK: // an error document in spite of its status
		return ErrOdd
	case http.StatusPaymentRequired:
		return ErrNoMoney
	case http.StatusInsufficientStorage:
		return ErrNoSpace
	case http.StatusPreconditionFailed:
		return ErrExists
	case http.StatusNotImplemented:
		return errors.ErrUnsupported
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return ErrWrongRegion
	case http.StatusRequestTimeout, http.StatusTooManyRequests, statusClientClosed:
		return ErrUnavailable
	}
	if status >= http.StatusInternalServerError {
		return ErrUnavailable
	}
	return nil
}

// permanent tells the faults of a connection that no repetition mends: a certificate that is not
// trusted, or TLS spoken to a server that does not.
func permanent(err error) bool {
	var (
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		record    tls.RecordHeaderError
	)
	return errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &name) ||
		errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}
