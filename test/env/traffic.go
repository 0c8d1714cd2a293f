//go:build linux

package env

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// Traffic are the workloads of UDPPair, TCPPair, DelayPair, ContentPair,
// StreamPair and RoundTrips, for Main.
func Traffic() map[string]Workload {
	return map[string]Workload{
		"udp-send":        udpSend,
		"udp-receive":     udpReceive,
		"tcp-serve":       tcpServe,
		"tcp-send":        tcpSend,
		"stamp-send":      stampSend,
		"stamp-receive":   stampReceive,
		"round-trips":     roundTrips,
		"content-send":    contentSend,
		"content-receive": contentReceive,
		"stream-send":     streamSend,
		"stream-receive":  streamReceive,
	}
}

// Sent is what a sender saw.
type Sent struct {
	Errors int
	First  string
}

// udpSend sends args[1] numbered datagrams to args[0] when it is told to. With a
// third argument they are that many bytes long.
func udpSend(in io.Reader, out *json.Encoder, args []string) error {
	if err := oneCPU(); err != nil {
		return err
	}
	connection, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	padding := ""
	if len(args) > 2 {
		size, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		padding = strings.Repeat(" ", size)
	}
	return Serve(in, out, func([]string) (any, error) {
		var result Sent
		for i := range count {
			result.wrote(fmt.Fprint(connection, i, padding))
		}
		return result, nil
	})
}

// udpReceive prints the numbers that came, at each line that it reads.
func udpReceive(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := listenUDP(args[0])
	if err != nil {
		return err
	}
	return Serve(in, out, func([]string) (any, error) {
		// The sender has ended: what is not here then was lost.
		const patience = 250 * time.Millisecond
		received := []int{}
		err := receive(connection, patience, func(datagram []byte) (time.Duration, error) {
			number, err := strconv.Atoi(strings.TrimSpace(string(datagram)))
			received = append(received, number)
			return patience, err
		})
		return received, err
	})
}

// growBuffer makes room for everything that is ever sent, whatever
// net.core.rmem_max says (SO_RCVBUFFORCE, socket(7)).
func growBuffer(connection *net.UDPConn) error {
	raw, err := connection.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	})
	return errors.Join(err, set)
}

// UDPPair is a sender and a receiver.
type UDPPair struct {
	Sender, Receiver *Process
	Count            int
}

// NewUDPPair sends from A, in the cgroup from, to B, in the cgroup to.
func NewUDPPair(t testing.TB, n Network, from, to fault.Cgroup, address string, count int) UDPPair {
	t.Helper()
	var ready string
	receiver := Start(t, to, n.B, "udp-receive", address)
	receiver.Read(&ready)
	sender := Start(t, from, n.A, "udp-send", address, strconv.Itoa(count))
	sender.Read(&ready)
	return UDPPair{sender, receiver, count}
}

// Exchange sends all datagrams and returns the sender's view and the numbers
// that were lost.
func (p UDPPair) Exchange() (result Sent, lost []int) {
	p.Sender.Tell("go")
	p.Sender.Read(&result)
	var received []int
	for more := []int{0}; len(more) > 0 && len(received) < p.Count; {
		// A busy machine may have some on their way when the receiver gives up.
		p.Receiver.Tell("report")
		more = nil
		p.Receiver.Read(&more)
		received = append(received, more...)
	}
	slices.Sort(received)
	for i := range p.Count {
		if _, found := slices.BinarySearch(received, i); !found {
			lost = append(lost, i)
		}
	}
	return result, lost
}

// tcpServe accepts connections and sends back what it gets.
func tcpServe(in io.Reader, out *json.Encoder, args []string) error {
	listener, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(connection, connection)
				_ = connection.Close()
			}()
		}
	}()
	_, err = io.Copy(io.Discard, in)
	return err
}

// Transfer is what a TCP client saw.
type Transfer struct {
	Error       string
	Retransmits uint32
}

// tcpSend does what it reads: "dial" connects to args[0], "send" passes a
// megabyte there and back over the open connection. A try ends after args[1].
func tcpSend(in io.Reader, out *json.Encoder, args []string) error {
	limit, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	var connection net.Conn
	return Serve(in, out, func(words []string) (any, error) {
		var result Transfer
		if words[0] == "dial" {
			connection, err = net.DialTimeout("tcp", args[0], limit)
		} else {
			result.Retransmits, err = echo(connection.(*net.TCPConn), limit)
		}
		if err != nil {
			result.Error = err.Error()
		}
		return result, nil
	})
}

func echo(connection *net.TCPConn, limit time.Duration) (retransmits uint32, err error) {
	const size = 1 << 20
	if err := connection.SetDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(connection, strings.NewReader(strings.Repeat("x", size)))
		wrote <- err
	}()
	_, err = io.CopyN(io.Discard, connection, size)
	err = errors.Join(err, <-wrote)
	control := raw.Control(func(fd uintptr) {
		info, failed := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if failed == nil {
			retransmits = info.Total_retrans
		}
	})
	return retransmits, errors.Join(err, control)
}

// TCPPair is a client in A and a server in B.
type TCPPair struct{ Client *Process }

// NewTCPPair starts a server in B and a client of it in A; a try of the client
// ends after limit.
func NewTCPPair(t testing.TB, n Network, from, to fault.Cgroup, address string, limit time.Duration) TCPPair {
	t.Helper()
	var ready string
	Start(t, to, n.B, "tcp-serve", address).Read(&ready)
	return NewTCPClient(t, n, from, address, limit)
}

// NewTCPClient is one more client of a server that is there already.
func NewTCPClient(t testing.TB, n Network, from fault.Cgroup, address string, limit time.Duration) TCPPair {
	t.Helper()
	var ready string
	client := Start(t, from, n.A, "tcp-send", address, limit.String())
	client.Read(&ready)
	return TCPPair{client}
}

// Try lets the client dial or send.
func (p TCPPair) Try(what string) (result Transfer) {
	p.Client.Tell(what)
	p.Client.Read(&result)
	return result
}
