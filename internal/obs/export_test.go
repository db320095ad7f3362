package obs

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

// WithTransport lets a test change how connections are made.
func WithTransport(o Options, f func(*http.Transport)) Options {
	o.transport = f
	return o
}

// AlsoTransport adds a change to the changes of WithTransport.
func AlsoTransport(o Options, f func(*http.Transport)) Options {
	before := o.transport
	return WithTransport(o, func(tr *http.Transport) {
		if before != nil {
			before(tr)
		}
		f(tr)
	})
}

// ReceiveBuffer is the number of bytes that the kernel may receive on a connection to a
// store ahead of the reader: twice the size that the program set.
func ReceiveBuffer(c net.Conn) (size int, err error) {
	raw, err := c.(*stallConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) })
	return size, errors.Join(cerr, err)
}

// askSource is a source of credentials that a test answers for.
type askSource func() (credentials.Value, error)

func (a askSource) Retrieve() (credentials.Value, error) { return a() }
func (a askSource) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return a()
}
func (a askSource) IsExpired() bool { return true }

// NewCredentials makes credentials as Open does, by a clock and a source of a test.
func NewCredentials(now func() time.Time, ask func() (credentials.Value, error)) *credentials.Credentials {
	return credentials.New(&provider{now: now, sources: []source{constant{askSource(ask)}}})
}

// SlowDownError is an answer by which a store asks for fewer requests.
func SlowDownError(err error) error { return &unavailableError{err: err, slow: true} }
