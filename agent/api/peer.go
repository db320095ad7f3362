package api

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/sys/unix"

	"holdfast/agent/model"
)

type peerKey struct{}

// withPeer notes which process opened a connection of a unix
// socket. The kernel's answer is of the moment of the connect.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || credErr != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

// operator is the caller at the socket. That it could open the socket makes
// it an operator; the kernel says which process it is, for the audit.
func operator(r *http.Request) model.Caller {
	c := model.Caller{Role: model.RoleOperator, Via: "socket"}
	if cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred); ok {
		c.Via = fmt.Sprintf("uid %d pid %d", cred.Uid, cred.Pid)
	}
	return c
}
