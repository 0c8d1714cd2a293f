//go:build linux

package main

import (
	"context"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sockets counts what the kernel retransmits on the TCP sockets of one client.
// The counters of the namespace mix it with its neighbours; TCP_INFO (tcp(7))
// does not. What the kernel sends again after a socket was closed, the end of a
// connection that is lost, is counted by the namespace only.
type sockets struct {
	mu     sync.Mutex
	open   map[*socket]struct{}
	closed uint64
}

// socket is a second descriptor of a connection: it still tells how often the
// first packet was sent again when the connection never came about and its own
// descriptor is gone.
type socket struct{ fd int }

// retransmitted is the number of segments so far. It never falls.
func (s *sockets) retransmitted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.closed
	for one := range s.open {
		sum += one.retransmitted()
	}
	return sum
}

func (s *socket) retransmitted() uint64 {
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return uint64(info.Total_retrans)
}

// dial connects and counts the connection until it is closed.
func (s *sockets) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var mine *socket
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var fd int
		var err error
		if controlErr := raw.Control(func(original uintptr) {
			fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
		}); controlErr != nil {
			return controlErr
		}
		if err != nil {
			return err
		}
		mine = &socket{fd: fd}
		s.add(mine)
		return nil
	}}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		if mine != nil {
			s.remove(mine)
		}
		return nil, err
	}
	return &countedConn{Conn: conn, done: sync.OnceFunc(func() { s.remove(mine) })}, nil
}

func (s *sockets) add(one *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*socket]struct{}{}
	}
	s.open[one] = struct{}{}
}

func (s *sockets) remove(one *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed += one.retransmitted()
	delete(s.open, one)
	_ = unix.Close(one.fd)
}

// countedConn is a connection whose last count is taken when it closes.
type countedConn struct {
	net.Conn
	done func()
}

func (c *countedConn) Close() error {
	c.done()
	return c.Conn.Close()
}
