package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/contain"
)

// A far store is MinIO behind a network that takes 20 ms for the way there and back, and carries
// 100 MB a second in each direction. A process of its own passes the bytes on, so that
// the process that measures stays small.
const (
	farLatency = 10 * time.Millisecond // of one direction
	farRate    = 100e6                 // bytes a second, of all connections together
	farPiece   = 64 << 10              // bytes that travel together
	farUnder   = 64                    // pieces under way in a direction of a connection
)

const (
	farUser   = "holdfast-bench"
	farSecret = "holdfast-bench-secret"
	farRegion = "us-east-1"
)

// farStore is a running far store.
type farStore struct {
	address string // 127.0.0.1:port
	data    string // MinIO's folder; a folder in it is a bucket
	buckets int
	minio   *exec.Cmd
	network *exec.Cmd
}

// startFar starts MinIO and the network to it.
func (r *runner) startFar(ctx context.Context) (f *farStore, err error) {
	bin, err := findMinIO()
	if err != nil {
		return nil, err
	}
	f = &farStore{data: r.in("minio")}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if err := os.Mkdir(f.data, 0o700); err != nil {
		return nil, err
	}
	direct, err := freeAddress()
	if err != nil {
		return nil, err
	}
	f.minio = exec.CommandContext(ctx, bin, "server", "--quiet", "--address", direct, f.data)
	f.minio.Env = []string{
		"HOME=" + r.dir, "MINIO_ROOT_USER=" + farUser, "MINIO_ROOT_PASSWORD=" + farSecret,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off",
	}
	if err := f.minio.Start(); err != nil {
		return nil, err
	}
	if err := await(ctx, direct); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f.network = exec.CommandContext(ctx, self, "network", direct)
	out, err := f.network.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.network.Start(); err != nil {
		return nil, err
	}
	_, err = fmt.Fscanln(out, &f.address)
	return f, err
}

// findMinIO looks on PATH and where "make tools" puts it.
func findMinIO() (string, error) {
	if bin, err := exec.LookPath("minio"); err == nil {
		return bin, nil
	}
	for _, dir := range []string{os.Getenv("HOLDFAST_TOOLS"), filepath.Join("build", "bin")} {
		if bin, err := filepath.Abs(filepath.Join(dir, "minio")); err == nil && dir != "" {
			if _, err := os.Stat(bin); err == nil {
				return bin, nil
			}
		}
	}
	return "", errors.New("a far store needs minio on PATH or in build/bin; run make tools")
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// await returns when a server takes connections at address.
func await(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("minio does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (f *farStore) stop() error {
	for _, c := range []*exec.Cmd{f.network, f.minio} {
		if c != nil && c.Process != nil {
			_ = c.Process.Kill() // or it has ended
			_ = c.Wait()         // its end by that signal
		}
	}
	return os.RemoveAll(f.data)
}

// bucket makes a new bucket, and returns its folder, whose name it has.
func (f *farStore) bucket() (folder string, err error) {
	f.buckets++
	folder = filepath.Join(f.data, fmt.Sprintf("bench-%d", f.buckets))
	return folder, os.Mkdir(folder, 0o755)
}

// farEnv has the variables that S3 clients look for.
func farEnv() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + farUser, "AWS_SECRET_ACCESS_KEY=" + farSecret, "AWS_REGION=" + farRegion}
}

// network passes connections on to the server at to, until its process is killed. It writes its
// address to out.
func network(to string, out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintln(out, l.Addr())
	var there, back lane
	var all contain.Group
	for {
		c, err := l.Accept()
		if err != nil {
			return errors.Join(err, all.Wait())
		}
		all.Go(func() error {
			time.Sleep(2 * farLatency) // the kernel has answered for the server already
			s, err := net.Dial("tcp", to)
			if err != nil {
				return errors.Join(err, c.Close())
			}
			var both contain.Group
			both.Go(func() error { return there.carry(s, c) })
			both.Go(func() error { return back.carry(c, s) })
			_ = both.Wait() // the client sees a broken connection
			return errors.Join(c.Close(), s.Close())
		})
	}
}

// lane is one direction of the network.
type lane struct {
	mu   sync.Mutex
	free time.Time // when all bytes so far have passed
}

// take returns when n bytes have passed.
func (l *lane) take(n int) {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / farRate * float64(time.Second)))
	until := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(until))
}

type piece struct {
	bytes []byte
	due   time.Time
}

// carry passes the bytes of from on to to, until from ends.
func (l *lane) carry(to, from net.Conn) error {
	way := make(chan piece, farUnder)
	var reader contain.Group
	reader.Go(func() error {
		defer close(way)
		for {
			b := make([]byte, farPiece)
			n, err := from.Read(b)
			if n > 0 {
				l.take(n)
				way <- piece{b[:n], time.Now().Add(farLatency)}
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	var failed error
	for p := range way {
		if failed != nil {
			continue // the reader must not wait
		}
		time.Sleep(time.Until(p.due))
		if _, failed = to.Write(p.bytes); failed != nil {
			_ = from.Close() // ends the reader
		}
	}
	if half, ok := to.(*net.TCPConn); ok && failed == nil {
		failed = half.CloseWrite()
	}
	return errors.Join(failed, reader.Wait())
}
