package obs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
)

// unavailableError is ErrUnavailable with its cause and with how long the server asked to wait.
type unavailableError struct {
	err   error
	after time.Duration
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

// classByCode is for the error codes whose status tells less, or lies.
var classByCode = map[string]error{
	"NoSuchKey":                      ErrNotFound,
	"NoSuchBucket":                   ErrNoBucket,
	"PreconditionFailed":             ErrExists,
	"InArrearOrInsufficientBalance":  ErrNoSpace,
	"InsufficientStorageSpace":       ErrNoSpace,
	"InsufficientStorage":            ErrNoSpace,
	"QuotaExceeded":                  ErrNoSpace,
	"XMinioStorageFull":              ErrNoSpace,
	"XMinioAdminBucketQuotaExceeded": ErrNoSpace,
	"AccessDenied":                   ErrAccess,
	"InvalidAccessKeyId":             ErrAccess,
	"SignatureDoesNotMatch":          ErrAccess,
	"ExpiredToken":                   ErrAccess,
	"InvalidToken":                   ErrAccess,
	"TokenRefreshRequired":           ErrAccess,
	"RequestTimeTooSkewed":           ErrAccess,
	"InvalidBucketName":              ErrUsage,
	"KeyTooLongError":                ErrUsage,
	"EntityTooLarge":                 ErrUsage,
	"AuthorizationHeaderMalformed":   ErrUsage, // most often another region than the bucket's
	"VirtualHostDomainRequired":      ErrUsage,
	"NotImplemented":                 errors.ErrUnsupported,
	"OperationAborted":               ErrUnavailable,
	"ConditionalRequestConflict":     ErrUnavailable,
	"SlowDown":                       ErrUnavailable,
	"ServiceUnavailable":             ErrUnavailable,
	"InternalError":                  ErrUnavailable,
	"RequestTimeout":                 ErrUnavailable,
	// The bytes were damaged or cut on their way: the same bytes may arrive whole.
	"BadDigest":      ErrUnavailable,
	"IncompleteBody": ErrUnavailable,
}

// classify wraps an error of the client with the class that fits it and with the server's own words.
// after is what the server's Retry-After said.
func classify(err error, d dialect, after time.Duration) error {
	var u *unavailableError
	if errors.As(err, &u) {
		return err
	}
	var none *credentialsError
	if errors.As(err, &none) {
		if none.had { // they were there before: the service that renews them is away
			return &unavailableError{err: err}
		}
		return fmt.Errorf("%w: %w", ErrAccess, err)
	}
	var res minio.ErrorResponse
	if !errors.As(err, &res) {
		if permanent(err) {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		return &unavailableError{err: err} // the network: every cut, refusal and time-out
	}
	words := fmt.Errorf("%w%s", err, codeOf(res))
	class := classByCode[res.Code]
	if res.Code == "XAmzContentSHA256Mismatch" && !d.md5 {
		class = ErrUnavailable // damaged on its way; OBS means by this that it refuses the signature
	}
	if class == nil {
		class = classOfStatus(res.StatusCode)
	}
	switch class {
	case ErrUnavailable:
		return &unavailableError{err: words, after: after}
	case nil:
		return words
	}
	return fmt.Errorf("%w: %w", class, words)
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
	case http.StatusPaymentRequired, http.StatusInsufficientStorage:
		return ErrNoSpace
	case http.StatusPreconditionFailed:
		return ErrExists
	case http.StatusNotImplemented:
		return errors.ErrUnsupported
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return ErrUsage // the bucket is in another region
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499:
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
