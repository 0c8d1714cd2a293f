//go:build linux && privileged

package ifb_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	workloads := env.Traffic()
	workloads["udp-echo"] = udpEcho
	workloads["probe"] = probe
	workloads["group"] = group
	workloads["inject"] = inject
	env.Main(m, workloads)
}

// patience is how long a probe waits for its answer.
const patience = 30 * time.Second

// udpEcho sends every datagram back.
func udpEcho(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := connection.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = connection.WriteTo(buffer[:n], from)
		}
	}()
	return hold(in, out)
}

func hold(in io.Reader, out *json.Encoder) error {
	if err := out.Encode("ready"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// Answer is what a probe saw.
type Answer struct {
	// Took is the time until the answer was there.
	Took time.Duration
	// Stamped is how long after the question the answer came in by the kernel's
	// own timestamp (SO_TIMESTAMPNS); for datagrams.
	Stamped time.Duration
	// SentSum and Sum are digests of a stream, sent and come back.
	SentSum, Sum string
	// Retransmits of a stream.
	Retransmits uint32
	Error       string
}

// probe asks at each line that it reads: "udp" with one datagram, "sendto" with
// one from a socket that is not connected, "dial" by connecting, "ping" with
// an ICMP echo, "stream N" with N bytes over a connection. The argument is the
// address.
func probe(in io.Reader, out *json.Encoder, args []string) error {
	sockets := map[string]net.PacketConn{}
	return env.Serve(in, out, func(words []string) (any, error) {
		size, err := strconv.Atoi(words[1])
		if err != nil {
			return nil, err
		}
		answer, err := ask(sockets, words[0], size, args[0])
		if err != nil {
			answer.Error = err.Error()
		}
		return answer, nil
	})
}

func ask(sockets map[string]net.PacketConn, what string, size int, address string) (answer Answer, err error) {
	start := time.Now()
	defer func() { answer.Took = time.Since(start) }()
	switch what {
	case "dial":
		connection, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			return answer, err
		}
		return answer, connection.Close()
	case "stream":
		err := stream(&answer, address, size)
		return answer, err
	case "ping":
		return answer, ping(address)
	}
	if sockets[what] == nil {
		socket, err := open(what == "sendto", address)
		if err != nil {
			return answer, err
		}
		sockets[what] = socket
	}
	start = time.Now()
	arrived, err := datagram(sockets[what].(*net.UDPConn), address, what == "sendto", size)
	end := time.Now()
	// Took and timestamps are of two clocks, which are not read at once: what
	// both know is the end.
	answer.Stamped = end.Sub(start) - end.Round(0).Sub(arrived)
	return answer, err
}

func open(unconnected bool, address string) (net.PacketConn, error) {
	var socket *net.UDPConn
	if unconnected {
		connection, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return nil, err
		}
		socket = connection.(*net.UDPConn)
	} else {
		connection, err := net.Dial("udp", address)
		if err != nil {
			return nil, err
		}
		socket = connection.(*net.UDPConn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	return socket, errors.Join(err, set)
}

// datagram returns the kernel's time of arrival.
func datagram(socket *net.UDPConn, address string, unconnected bool, size int) (time.Time, error) {
	if err := socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return time.Time{}, err
	}
	question := make([]byte, max(size, 1))
	var err error
	if unconnected {
		var to *net.UDPAddr
		if to, err = net.ResolveUDPAddr("udp", address); err != nil {
			return time.Time{}, err
		}
		_, err = socket.WriteTo(question, to)
	} else {
		_, err = socket.Write(question)
	}
	if err != nil {
		return time.Time{}, err
	}
	buffer, control := make([]byte, 65536), make([]byte, 256)
	n, length, _, _, err := socket.ReadMsgUDP(buffer, control)
	if err != nil {
		return time.Time{}, err
	}
	if n != len(question) {
		return time.Time{}, fmt.Errorf("%d bytes came back of %d", n, len(question))
	}
	messages, err := syscall.ParseSocketControlMessage(control[:length])
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS {
			sec, nsec := int64(native(m.Data[:8])), int64(native(m.Data[8:16]))
			return time.Unix(sec, nsec), nil
		}
	}
	return time.Time{}, errors.New("the datagram has no timestamp")
}

func stream(answer *Answer, address string, size int) error {
	connection, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	if err := connection.SetDeadline(time.Now().Add(4 * patience)); err != nil {
		return err
	}
	sent, received := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(connection, sent), rand.Reader, int64(size))
		wrote <- err
	}()
	_, err = io.CopyN(received, connection, int64(size))
	err = errors.Join(err, <-wrote)
	answer.SentSum, answer.Sum = hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(received.Sum(nil))
	raw, rawErr := connection.(*net.TCPConn).SyscallConn()
	if rawErr != nil {
		return errors.Join(err, rawErr)
	}
	return errors.Join(err, raw.Control(func(fd uintptr) {
		if info, infoErr := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); infoErr == nil {
			answer.Retransmits = info.Total_retrans
		}
	}))
}

func ping(address string) error {
	socket, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	if err := socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	echo := &icmp.Echo{ID: int(id[0])<<8 | int(id[1]), Seq: 1, Data: []byte("inbound")}
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: echo}
	text, err := message.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := socket.WriteTo(text, &net.IPAddr{IP: net.ParseIP(address)}); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, _, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := icmp.ParseMessage(1, buffer[:n])
		if err != nil {
			return err
		}
		if body, ok := answer.Body.(*icmp.Echo); ok && answer.Type == ipv4.ICMPTypeEchoReply && body.ID == echo.ID {
			return nil
		}
	}
}

// group is one member of a reuseport group at args[0]; it prints how many
// datagrams it got at each line that it reads.
func group(in io.Reader, out *json.Encoder, args []string) error {
	socket, err := reusing(args[0])
	if err != nil {
		return err
	}
	got := make(chan struct{}, 65536)
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			got <- struct{}{}
			_, _ = socket.WriteTo(buffer[:n], from)
		}
	}()
	return env.Serve(in, out, func([]string) (any, error) { return len(got), nil })
}

func reusing(address string) (net.PacketConn, error) {
	var set error
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, set)
	}}
	return config.ListenPacket(noContext(), "udp", address)
}

// prober is a process that asks.
type prober struct {
	t       *testing.T
	process *env.Process
}

func (p prober) ask(what string, size int) Answer {
	p.t.Helper()
	p.process.Tell(what + " " + strconv.Itoa(size))
	var answer Answer
	p.process.Read(&answer)
	if answer.Error != "" {
		p.t.Fatalf("%s: %s", what, answer.Error)
	}
	return answer
}
