package testbed_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"holdfast/internal/testbed"
)

// TestNetwork: a host in a namespace reaches the servers of the test;
// each can be cut off alone, the link can be pulled, and both heal.
func TestNetwork(t *testing.T) {
	n := testbed.StartNetwork(t)
	serve := func(address string) string {
		l, err := net.Listen("tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		done := make(chan struct{})
		t.Cleanup(func() { _ = l.Close(); <-done })
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		return l.Addr().String()
	}
	store, plane := serve(n.Servers[0]), serve(n.Servers[1])
	reach := func(address string, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := n.Dial(ctx, "tcp", address)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		b, err := io.ReadAll(c)
		return err == nil && string(b) == "hello"
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const short, long = 500 * time.Millisecond, 30 * time.Second
	if !reach(store, long) || !reach(plane, long) {
		t.Fatal("the host does not reach the servers")
	}
	must(n.Cut(n.Servers[0]))
	if reach(store, short) || !reach(plane, long) {
		t.Error("cut off from the store, the host reaches the wrong ones")
	}
	must(n.Heal())
	must(n.Unplug())
	if reach(store, short) || reach(plane, short) {
		t.Error("without its link the host reaches servers")
	}
	must(n.Heal())
	if !reach(store, long) || !reach(plane, long) {
		t.Error("after healing the host does not reach the servers")
	}
}
