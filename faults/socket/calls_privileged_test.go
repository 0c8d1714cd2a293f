//go:build linux && privileged

package socket_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"calls": calls})
}

// calls makes calls of sockets. A line says which, of what socket, to what address
// and how often: "connect tcp4 127.0.0.1:80 10". Each has a new socket. The answer
// says how often each errno came, 0 for a success.
func calls(in io.Reader, out *json.Encoder, _ []string) error {
	return env.Serve(in, out, func(words []string) (any, error) {
		times, err := strconv.Atoi(words[3])
		if err != nil {
			return nil, err
		}
		results := env.Results{}
		for range times {
			err := once(words[0], words[1], words[2])
			var errno unix.Errno
			if err != nil && !errors.As(err, &errno) {
				return nil, err
			}
			results[errno]++
		}
		return results, nil
	})
}

// networks are the sockets of calls.
var networks = map[string]struct{ family, kind int }{
	"tcp4": {unix.AF_INET, unix.SOCK_STREAM}, "tcp6": {unix.AF_INET6, unix.SOCK_STREAM},
	"udp4": {unix.AF_INET, unix.SOCK_DGRAM}, "udp6": {unix.AF_INET6, unix.SOCK_DGRAM},
	"unix": {unix.AF_UNIX, unix.SOCK_STREAM}, "netlink": {unix.AF_NETLINK, unix.SOCK_RAW},
}

func parseAddress(network, text string) (unix.Sockaddr, error) {
	switch network {
	case "unix":
		return &unix.SockaddrUnix{Name: text}, nil
	case "netlink":
		return &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, nil
	}
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	if networks[network].family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}, nil
	}
	return &unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()}, nil
}

// once makes one call. Errors of what has to be done before are no errnos.
func once(call, network, text string) error {
	address, err := parseAddress(network, text)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(networks[network].family, networks[network].kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.New("making a socket: " + err.Error())
	}
	defer func() { _ = unix.Close(fd) }()
	var before error
	switch call {
	case "listen":
		before = unix.Bind(fd, address)
	case "accept":
		before = errors.Join(unix.Bind(fd, address), unix.Listen(fd, 1), unix.SetNonblock(fd, true))
	case "write", "send", "recv", "getsockopt", "setsockopt", "get-long", "set-long":
		before = unix.Connect(fd, address)
	}
	if before != nil {
		return errors.New("preparing " + call + ": " + before.Error())
	}
	switch call {
	case "connect":
		return unix.Connect(fd, address)
	case "bind":
		return unix.Bind(fd, address)
	case "listen":
		return unix.Listen(fd, 1)
	case "accept":
		_, _, err := unix.Accept(fd)
		return err
	case "sendto":
		return unix.Sendto(fd, []byte("x"), 0, address)
	case "send":
		return unix.Send(fd, []byte("x"), 0)
	case "write":
		_, err := unix.Write(fd, []byte("x"))
		return err
	case "recv":
		_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		return err
	case "getsockopt":
		_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		return err
	case "setsockopt":
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	case "set-long":
		// Of which the kernel takes the first bytes.
		return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, "\x01\x00\x00\x00"+string(make([]byte, 10000)))
	default:
		return fmt.Errorf("unknown call %q", call)
	}
}

// caller is a process that makes calls.
type caller struct{ *env.Process }

func newCaller(t *testing.T, cgroup fault.Cgroup, network env.Network) caller {
	t.Helper()
	c := caller{env.Start(t, cgroup, network.A, "calls")}
	var ready string
	c.Read(&ready)
	return c
}

// begin orders calls, as "connect tcp4 127.0.0.1:80".
func (c caller) begin(call string, times int) { c.Tell(fmt.Sprint(call, " ", times)) }

func (c caller) end(t *testing.T) env.Results {
	t.Helper()
	results := env.Results{}
	c.Read(&results)
	return results
}

func (c caller) do(t *testing.T, call string, times int) env.Results {
	t.Helper()
	c.begin(call, times)
	return c.end(t)
}
