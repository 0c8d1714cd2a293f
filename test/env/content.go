//go:build linux

package env

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
)

// Content is what the datagram with that number, or the stream, has to say:
// bytes of every value, known to both ends.
func Content(number, size int) []byte {
	var seed [32]byte
	copy(seed[:], strconv.Itoa(number))
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(content) // never fails
	return content
}

// contentSend sends args[1] datagrams to args[0] when it is told to; their sizes
// are those after it, in turn.
func contentSend(in io.Reader, out *json.Encoder, args []string) error {
	// In order: packets that are sent from several CPUs pass one another.
	if err := oneCPU(); err != nil {
		return err
	}
	address, err := net.ResolveUDPAddr("udp", args[0])
	if err != nil {
		return err
	}
	connection, err := net.DialUDP("udp", nil, address)
	if err != nil {
		return err
	}
	numbers := make([]int, len(args)-1)
	for i, arg := range args[1:] {
		if numbers[i], err = strconv.Atoi(arg); err != nil {
			return err
		}
	}
	count, sizes := numbers[0], numbers[1:]
	return Serve(in, out, func([]string) (any, error) {
		var result Sent
		for i := range count {
			// Write does not wait for room with an empty datagram (EAGAIN).
			n, _, err := connection.WriteMsgUDP(Content(i, sizes[i%len(sizes)]), nil, nil)
			result.wrote(n, err)
		}
		return result, nil
	})
}

// contentReceive prints the datagrams that came, at each line that it reads,
// when nothing came for the time that the line says.
func contentReceive(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := listenUDP(args[0])
	if err != nil {
		return err
	}
	return Serve(in, out, func(words []string) (any, error) {
		patience, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		came := [][]byte{}
		err = receive(connection, patience, func(datagram []byte) (time.Duration, error) {
			came = append(came, bytes.Clone(datagram))
			return patience, nil
		})
		return came, err
	})
}

// ContentPair is a sender of datagrams whose content is known, and their
// receiver.
type ContentPair struct {
	Sender, Receiver *Process
	Count            int
	Sizes            []int
}

// NewContentPair sends count datagrams, whose sizes are those given in turn,
// between two namespaces, which may be one.
func NewContentPair(t testing.TB, from, to *Namespace, sender, receiver fault.Cgroup, address string, count int, sizes ...int) ContentPair {
	t.Helper()
	p := ContentPair{Count: count, Sizes: sizes}
	var ready string
	p.Receiver = Start(t, receiver, to, "content-receive", address)
	p.Receiver.Read(&ready)
	args := strings.Fields(fmt.Sprint(address, " ", count, " ", strings.Trim(fmt.Sprint(sizes), "[]")))
	p.Sender = Start(t, sender, from, "content-send", args...)
	p.Sender.Read(&ready)
	return p
}

// Sent is what was sent.
func (p ContentPair) Sent() [][]byte {
	list := make([][]byte, p.Count)
	for i := range list {
		list[i] = Content(i, p.Sizes[i%len(p.Sizes)])
	}
	return list
}

// Exchange returns the sender's view and what came.
func (p ContentPair) Exchange() (result Sent, came [][]byte) {
	p.Sender.Tell("go")
	p.Sender.Read(&result)
	for more := [][]byte{{}}; len(more) > 0; {
		// The sender has ended: what is not here now was lost. But a busy
		// machine may have some on their way when the receiver gives up.
		p.Receiver.Tell("250ms")
		more = nil
		p.Receiver.Read(&more)
		came = append(came, more...)
		if len(came) >= p.Count {
			break
		}
	}
	return result, came
}

// streamLimit is how long a stream may take.
const streamLimit = 2 * time.Minute

// streamSend sends args[1] bytes over a connection to args[0] when it is told to.
func streamSend(in io.Reader, out *json.Encoder, args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return Serve(in, out, func([]string) (any, error) {
		var result Sent
		result.wrote(0, stream(args[0], size))
		return result, nil
	})
}

func stream(address string, size int) error {
	connection, err := net.DialTimeout("tcp", address, streamLimit)
	if err != nil {
		return err
	}
	if err := connection.SetDeadline(time.Now().Add(streamLimit)); err != nil {
		return err
	}
	_, err = connection.Write(Content(0, size))
	return errors.Join(err, connection.Close())
}

// Streamed is what became of a stream on its way.
type Streamed struct {
	// Bytes that came, and how many of their bits were not those sent.
	Bytes, Flipped int
	Error          string
}

// streamReceive prints what came over each connection to args[0].
func streamReceive(_ io.Reader, out *json.Encoder, args []string) error {
	return ServeConnections(out, args[0], func(connection net.Conn) (any, error) {
		return streamed(connection), nil
	})
}

func streamed(connection net.Conn) (result Streamed) {
	err := connection.SetDeadline(time.Now().Add(streamLimit))
	came, readErr := io.ReadAll(connection)
	if err := errors.Join(err, readErr); err != nil {
		result.Error = err.Error()
	}
	result.Bytes = len(came)
	for i, b := range Content(0, len(came)) {
		result.Flipped += bits.OnesCount8(b ^ came[i])
	}
	return result
}

// StreamPair is a client that sends and a server that receives.
type StreamPair struct{ Client, Server *Process }

// NewStreamPair sends streams of size bytes from A to B.
func NewStreamPair(t testing.TB, n Network, from, to fault.Cgroup, address string, size int) StreamPair {
	t.Helper()
	var ready string
	server := Start(t, to, n.B, "stream-receive", address)
	server.Read(&ready)
	client := Start(t, from, n.A, "stream-send", address, strconv.Itoa(size))
	client.Read(&ready)
	return StreamPair{client, server}
}

// Exchange sends one stream over a connection of its own.
func (p StreamPair) Exchange() (result Sent, came Streamed) {
	p.Client.Tell("go")
	p.Client.Read(&result)
	if result.Errors > 0 {
		return result, came
	}
	p.Server.Read(&came)
	return result, came
}

// SNMP is a counter of the namespace's network stack, as in "Udp InCsumErrors";
// those of IPv6 have names such as "Udp6InCsumErrors" (proc_net(5)).
func (n *Namespace) SNMP(name string) (value int) {
	n.t.Helper()
	n.Do(func() (err error) {
		value, err = snmp(name)
		return err
	})
	return value
}

func snmp(name string) (int, error) {
	group, field, old := strings.Cut(name, " ")
	if !old {
		return snmp6(name)
	}
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case words[0] != group+":":
		case names == nil:
			names = words
		default:
			for i, n := range names {
				if n == field {
					return strconv.Atoi(words[i])
				}
			}
		}
	}
	return 0, fmt.Errorf("no counter %s", name)
}

func snmp6(name string) (int, error) {
	text, err := os.ReadFile("/proc/thread-self/net/snmp6")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); words[0] == name {
			return strconv.Atoi(words[1])
		}
	}
	return 0, fmt.Errorf("no counter %s", name)
}
