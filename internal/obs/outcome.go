package obs

import (
	"context"
	"errors"
)

// ErrUncertain says that a put or a delete failed and may have taken effect all the
// same: the answer to one of its tries was lost, or came too late, or was an error of
// the server's own. It stands in the error's chain beside the class of the last try. The
// caller resolves the doubt: it reads the object back, or repeats the identical call.
var ErrUncertain = errors.New("it may have taken effect all the same")

// Uncertain tells whether a put or a delete that failed may have taken effect.
func Uncertain(err error) bool { return errors.Is(err, ErrUncertain) }

// uncertainError is an error of a put or a delete that may have taken effect.
// The class of the error comes first in the chain, so that Hint finds it.
type uncertainError struct{ err error }

func (e *uncertainError) Error() string   { return e.err.Error() + " (" + ErrUncertain.Error() + ")" }
func (e *uncertainError) Unwrap() []error { return []error{e.err, ErrUncertain} }

// uncertain marks err once. nil stays nil.
func uncertain(err error) error {
	if err == nil || Uncertain(err) {
		return err
	}
	return &uncertainError{err}
}

// noEffectError is an error of a try that certainly changed nothing
// in the store, such as a refused connection.
type noEffectError struct{ err error }

func (e *noEffectError) Error() string { return e.err.Error() }
func (e *noEffectError) Unwrap() error { return e.err }

// noEffect marks err. nil stays nil.
func noEffect(err error) error {
	if err == nil {
		return nil
	}
	return &noEffectError{err}
}

// mayHaveActed tells whether a failed try of a put or a delete may have changed
// the store. A store that knows marks its errors; of others, an error by which
// the store did not answer, or by which the call ended early, leaves it open.
func mayHaveActed(err error) bool {
	if Uncertain(err) {
		return true
	}
	var sure *noEffectError
	if errors.As(err, &sure) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// changes tells the operations whose outcome matters, because they change the store.
func changes(op string) bool { return op == opPut || op == opPutNew || op == opDelete }
