//go:build linux

package env

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
)

// monotonic is CLOCK_MONOTONIC, which is one in all namespaces but those of time.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return uint64(now.Nano()), nil
}

// stampHead is how long the number and the time of a datagram are.
const stampHead = 12

// stampSend sends args[1] datagrams of args[3] bytes to args[0], one each args[2],
// whenever it is told to. They say their number and when they were sent. With a
// fifth argument the socket is not connected.
func stampSend(in io.Reader, out *json.Encoder, args []string) error {
	if err := oneCPU(); err != nil {
		return err
	}
	connection, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	write := connection.Write
	if len(args) > 4 {
		loose, err := net.ListenPacket("udp", "")
		if err != nil {
			return err
		}
		write = func(b []byte) (int, error) { return loose.WriteTo(b, connection.RemoteAddr()) }
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	interval, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	packet := make([]byte, max(size, stampHead))
	return Serve(in, out, func([]string) (any, error) {
		var result Sent
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for i := range count {
			<-ticker.C
			now, err := monotonic()
			if err != nil {
				return nil, err
			}
			binary.BigEndian.PutUint32(packet, uint32(i))
			binary.BigEndian.PutUint64(packet[4:], now)
			result.wrote(write(packet))
		}
		return result, nil
	})
}

// oneCPU keeps what calls it on the first CPU that it may use: packets that are
// sent from several pass one another on their way to the other end of a veth.
func oneCPU() error {
	runtime.LockOSThread()
	var allowed, first unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("asking for the CPUs: %w", err)
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	first.Set(cpu)
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		return fmt.Errorf("staying on CPU %d: %w", cpu, err)
	}
	return nil
}

// stampReceive prints what came at each line that it reads. The line says how
// long the first datagram is waited for, and how long each after it.
func stampReceive(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := listenUDP(args[0])
	if err != nil {
		return err
	}
	return Serve(in, out, func(words []string) (any, error) {
		first, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		next, err := time.ParseDuration(words[1])
		if err != nil {
			return nil, err
		}
		arrivals := []Arrival{}
		err = receive(connection, first, func(datagram []byte) (time.Duration, error) {
			now, err := monotonic()
			if err != nil {
				return 0, err
			}
			if len(datagram) < stampHead {
				return 0, fmt.Errorf("a datagram has %d bytes", len(datagram))
			}
			sent := binary.BigEndian.Uint64(datagram[4:])
			arrivals = append(arrivals, Arrival{int(binary.BigEndian.Uint32(datagram)), time.Duration(now - sent), time.Duration(now)})
			return next, nil
		})
		return arrivals, err
	})
}

// Arrival is a datagram that came, after some time on its way.
type Arrival struct {
	Number int
	Took   time.Duration
	// At is CLOCK_MONOTONIC.
	At time.Duration
}

// Took are the times of all arrivals, in their order.
func Took(arrivals []Arrival) []time.Duration {
	list := make([]time.Duration, len(arrivals))
	for i, a := range arrivals {
		list[i] = a.Took
	}
	return list
}

// Quantile is the time below which the share q of the times are, 0 to 1.
func Quantile(times []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// DelayPair is a sender of datagrams at a steady pace and their receiver.
type DelayPair struct {
	Sender, Receiver *Process
	Count            int
}

// NewDelayPair sends from A, in the cgroup from, to B, in the cgroup to: small
// datagrams.
func NewDelayPair(t testing.TB, n Network, from, to fault.Cgroup, address string, count int, interval time.Duration) DelayPair {
	t.Helper()
	return NewSizedDelayPair(t, n, from, to, address, count, interval, stampHead)
}

// NewSizedDelayPair is NewDelayPair for datagrams of that many bytes.
func NewSizedDelayPair(t testing.TB, n Network, from, to fault.Cgroup, address string, count int, interval time.Duration, size int) DelayPair {
	t.Helper()
	return newDelayPair(t, n, from, to, address, count, interval, size)
}

// NewLooseDelayPair is NewDelayPair with a sender whose socket is not connected.
func NewLooseDelayPair(t testing.TB, n Network, from, to fault.Cgroup, address string, count int, interval time.Duration) DelayPair {
	t.Helper()
	return newDelayPair(t, n, from, to, address, count, interval, stampHead, "loose")
}

func newDelayPair(t testing.TB, n Network, from, to fault.Cgroup, address string, count int, interval time.Duration, size int, more ...string) DelayPair {
	t.Helper()
	var ready string
	receiver := Start(t, to, n.B, "stamp-receive", address)
	receiver.Read(&ready)
	args := []string{address, strconv.Itoa(count), interval.String(), strconv.Itoa(size)}
	sender := Start(t, from, n.A, "stamp-send", append(args, more...)...)
	sender.Read(&ready)
	return DelayPair{sender, receiver, count}
}

// Begin sends all datagrams; End waits for those that are on their way.
func (p DelayPair) Begin(longest time.Duration) {
	// A busy machine may keep the sender waiting between two.
	const gap = time.Second
	p.Receiver.Tell(fmt.Sprintf("%s %s", longest+gap, min(longest, time.Second)+gap))
	p.Sender.Tell("go")
}

// End returns the sender's view and what came, in the order of its coming.
func (p DelayPair) End() (result Sent, arrivals []Arrival) {
	p.Sender.Read(&result)
	p.Receiver.Read(&arrivals)
	return result, arrivals
}

// Exchange is Begin and End.
func (p DelayPair) Exchange(longest time.Duration) (Sent, []Arrival) {
	p.Begin(longest)
	return p.End()
}
