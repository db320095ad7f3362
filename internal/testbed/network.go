package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is a network namespace of a test's host, with one link to the namespace
// of the test. On the test's side of the link are several addresses, so that the
// host can be cut off from one server and not from another. The namespace is held
// by a file descriptor of this process alone: it goes with the test, and with the
// process, however the process ends. Its methods may be called from any goroutine.
type Network struct {
	Host    string   // address of the host, in the namespace
	Servers []string // addresses of the test's side

	t  testing.TB
	ns *os.File
}

// networks numbers the networks of this process.
var networks atomic.Int64

// link is the name of the host's end of the link, and nobody a
// hardware address that no interface has.
const (
	link   = "eth0"
	nobody = "02:00:00:00:00:01"
)

// serversPerNetwork are the addresses of the test's side in a network of eight.
const serversPerNetwork = 5

// StartNetwork makes the namespace, with a loopback interface and
// the link up. It needs root and the program ip.
func StartNetwork(t testing.TB) *Network {
	t.Helper()
	Need(t, "root", "ip")
	n := &Network{t: t}
	var err error
	if n.ns, err = newNamespace(); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = n.ns.Close() })
	// 198.18.0.0/15 is for tests of networks (RFC 2544), so no route of the host leads
	// there. The number of the process keeps test processes that run at the same time apart.
	number := networks.Add(1)
	block := (os.Getpid()*16 + int(number)) % (1 << 14)
	address := func(i int) string { return fmt.Sprintf("198.%d.%d.%d", 18+block>>13, block>>5&0xff, block&0x1f*8+i) }
	for i := range serversPerNetwork {
		n.Servers = append(n.Servers, address(i+1))
	}
	n.Host = address(serversPerNetwork + 1)
	name := fmt.Sprintf("hf%d-%d", os.Getpid(), number)
	err = n.Do(func() error {
		return errors.Join(
			run("ip", "link", "add", link, "type", "veth", "peer", "name", name, "netns", fmt.Sprint(os.Getpid())),
			run("ip", "link", "set", "lo", "up"),
			run("ip", "addr", "add", n.Host+"/29", "dev", link),
			run("ip", "link", "set", link, "up"),
		)
	})
	for _, s := range n.Servers {
		err = errors.Join(err, run("ip", "addr", "add", s+"/29", "dev", name))
	}
	if err = errors.Join(err, run("ip", "link", "set", name, "up")); err != nil {
		t.Fatal(err)
	}
	return n
}

// Do calls f on a thread that is in the namespace: sockets that f
// opens and programs that f starts are the host's.
func (n *Network) Do(f func() error) error { return inNamespace(n.ns, f) }

// Dial connects from within the namespace, for instance to a
// loopback address of the host. The address is of the form IP:port.
func (n *Network) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Cut loses all that the host sends to one of the servers, without
// a word: a connection hangs, and a new one is not answered.
func (n *Network) Cut(server string) error {
	return n.Do(func() error {
		return run("ip", "neigh", "replace", server, "lladdr", nobody, "dev", link, "nud", "permanent")
	})
}

// Unplug takes the host's link down: every packet that the host sends fails at once.
func (n *Network) Unplug() error {
	return n.Do(func() error { return run("ip", "link", "set", link, "down") })
}

// Heal undoes Cut and Unplug.
func (n *Network) Heal() error {
	return n.Do(func() error {
		err := run("ip", "link", "set", link, "up")
		for _, s := range n.Servers {
			if gone := run("ip", "neigh", "del", s, "dev", link); gone != nil && !strings.Contains(gone.Error(), "No such file") {
				err = errors.Join(err, gone)
			}
		}
		return err
	})
}

// newNamespace makes a network namespace, which lives as long as the file is open.
func newNamespace() (ns *os.File, err error) {
	err = onOtherThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

func inNamespace(ns *os.File, f func() error) error {
	return onOtherThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// onOtherThread calls f on a thread that ends afterwards, so that f
// may change the thread. The first thread of the process stands for
// the process in /proc, and cannot end alone: f never runs there.
func onOtherThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// This goroutine keeps the first thread busy meanwhile, so
			// the next goroutine gets another.
			defer runtime.UnlockOSThread()
			done <- onOtherThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}
