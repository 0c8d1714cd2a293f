package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/netns"
)

// serversMax is SERVERS_MAX of bpf/dns.
const serversMax = 8

// What a resolver listens to: enum fl_reach of bpf/dns.
const (
	reachIPv4 = 1 << 0
	reachIPv6 = 1 << 1
)

// askLonger is how long a server is waited for; who asks gives up earlier (resolv.conf(5)).
const askLonger = 30 * time.Second

// messageMax is the largest message (RFC 1035, 4.2.2).
const messageMax = 65535

// asked is the most questions that wait for an answer at once in one place; more are
// dropped, as a busy server does.
const asked = 4096

// backend is what a place asks about questions and servers.
type backend interface {
	// judge returns what a query is answered with, and whether it is: nil and true
	// for no answer at all.
	judge(query []byte, client, protocol string) (answer []byte, answered bool)
	// server is whom the questions at one of the ports are for.
	server(port int) (netip.AddrPort, error)
}

// place is the resolver of one network namespace. Its sockets are there, and end with the
// process.
type place struct {
	ns      *netns.Namespace
	backend backend
	// cookie is the kernel's name of the namespace; 0 where it does not tell (before
	// 5.14).
	cookie uint64
	// reach says which loopback addresses it listens to.
	reach uint32

	// ctx ends when the place does.
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	// open are the listening sockets.
	open []io.Closer
	// serving are the loops of these, waiting the questions that wait.
	serving, waiting sync.WaitGroup
}

// listen opens the resolver of a namespace, which it then owns. errTaken is returned when
// somebody else has one of the ports.
func listen(ns *netns.Namespace, ports [serversMax]uint16, b backend) (*place, error) {
	p := &place{ns: ns, backend: b, slots: make(chan struct{}, asked)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	var serve []func()
	err := ns.Do(func() (err error) {
		if p.cookie, err = cookieHere(); err != nil {
			return err
		}
		for bit, address := range map[uint32]netip.Addr{
			reachIPv4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), reachIPv6: netip.IPv6Loopback(),
		} {
			for i, port := range ports {
				loops, err := p.listenAt(i, netip.AddrPortFrom(address, port))
				if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
					break // loopback does not have the address
				}
				if err != nil {
					return err
				}
				serve = append(serve, loops...)
				p.reach |= bit
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	for _, loop := range serve {
		p.serving.Go(loop)
	}
	return p, nil
}

// errTaken: somebody else listens to a port.
var errTaken = errors.New("the port is taken")

// listenAt opens the sockets for one of the servers.
func (p *place) listenAt(i int, at netip.AddrPort) (loops []func(), err error) {
	datagrams, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, explain(err)
	}
	p.open = append(p.open, datagrams)
	connections, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, explain(err)
	}
	p.open = append(p.open, connections)
	return []func(){
		func() { p.serveDatagrams(i, datagrams) },
		func() { p.serveConnections(i, connections) },
	}, nil
}

func explain(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("opening a resolver: %w: %w", errTaken, err)
	}
	return fmt.Errorf("opening a resolver: %w", err)
}

// cookieHere is the kernel's name of the network namespace of this thread; 0 where it has
// none.
func cookieHere() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the cookie of a network namespace: %w", err)
	}
	return cookie, nil
}

func (p *place) serveDatagrams(i int, socket *net.UDPConn) {
	buffer := make([]byte, messageMax)
	for {
		n, client, err := socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what the kernel tells of an answer to somebody who is gone
		}
		query := append([]byte(nil), buffer[:n]...)
		answer, answered := p.backend.judge(query, client.String(), "UDP")
		if answered {
			if answer != nil {
				_, _ = socket.WriteToUDPAddrPort(answer, client) // as lossy as UDP is
			}
			continue
		}
		select {
		case p.slots <- struct{}{}:
		default:
			continue
		}
		p.waiting.Go(func() {
			defer func() { <-p.slots }()
			if answer, err := p.askByDatagram(i, query); err == nil {
				_, _ = socket.WriteToUDPAddrPort(answer, client)
			}
		})
	}
}

// dial connects to the server that the questions at a port are for, in the namespace. The
// connection is closed with the place.
func (p *place) dial(i int, protocol string) (net.Conn, error) {
	server, err := p.backend.server(i)
	if err != nil {
		return nil, err
	}
	var connection net.Conn
	err = p.ns.Do(func() (err error) {
		dialer := net.Dialer{Timeout: askLonger}
		connection, err = dialer.DialContext(p.ctx, protocol, server.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking server %s: %w", server, err)
	}
	stop := context.AfterFunc(p.ctx, func() { _ = connection.Close() })
	return &closing{connection, stop}, nil
}

// closing is a connection that is closed once, by whoever comes first.
type closing struct {
	net.Conn
	stop func() bool
}

func (c *closing) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (p *place) askByDatagram(i int, query []byte) ([]byte, error) {
	connection, err := p.dial(i, "udp")
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	if err := connection.SetDeadline(time.Now().Add(askLonger)); err != nil {
		return nil, err
	}
	if _, err := connection.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, messageMax)
	for {
		n, err := connection.Read(answer)
		if err != nil {
			return nil, err
		}
		// An answer has the number of its question.
		if n >= 2 && len(query) >= 2 && answer[0] == query[0] && answer[1] == query[1] {
			return answer[:n], nil
		}
	}
}

func (p *place) serveConnections(i int, listener *net.TCPListener) {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		stop := context.AfterFunc(p.ctx, func() { _ = client.Close() })
		p.waiting.Go(func() {
			p.serveConnection(i, &closing{client, stop})
		})
	}
}

// serveConnection goes on until one of both sides closes. The server is only called when
// there is something to ask.
func (p *place) serveConnection(i int, client net.Conn) {
	defer func() { _ = client.Close() }()
	var server net.Conn
	var writing sync.Mutex
	send := func(message []byte) error {
		writing.Lock()
		defer writing.Unlock()
		return writeMessage(client, message)
	}
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		query, err := readMessage(client)
		if err != nil {
			break
		}
		answer, answered := p.backend.judge(query, client.RemoteAddr().String(), "TCP")
		if answered {
			if answer != nil && send(answer) != nil {
				break
			}
			continue
		}
		if server == nil {
			if server, err = p.dial(i, "tcp"); err != nil {
				break
			}
			answers.Go(func() {
				// Who asks learns that the server has closed.
				defer func() { _ = client.Close() }()
				for {
					answer, err := readMessage(server)
					if err != nil || send(answer) != nil {
						return
					}
				}
			})
		}
		if writeMessage(server, query) != nil {
			break
		}
	}
	if server != nil {
		_ = server.Close()
	}
}

// Messages on a connection have their length before them (RFC 1035, 4.2.2).

func readMessage(from io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(from, message)
	return message, err
}

func writeMessage(to io.Writer, message []byte) error {
	_, err := to.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// drain waits until the questions are answered that wait for a server, no longer than
// some time.
func (p *place) drain(longest time.Duration) {
	done := make(chan struct{})
	go func() {
		p.waiting.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(longest):
	}
}

// close ends everything, also what waits, and lets go of the namespace.
func (p *place) close() error {
	p.cancel()
	var errs []error
	for _, socket := range p.open {
		errs = append(errs, socket.Close())
	}
	p.serving.Wait()
	p.waiting.Wait()
	return errors.Join(append(errs, p.ns.Close())...)
}
