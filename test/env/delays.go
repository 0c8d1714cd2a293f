//go:build linux

package env

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
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
// whenever it is told to. They say their number and when they were sent.
func stampSend(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := net.Dial("udp", args[0])
	if err != nil {
		return err
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
	if err := out.Encode("ready"); err != nil {
		return err
	}
	var line string
	for {
		if _, err := fmt.Fscanln(in, &line); err != nil {
			return nil
		}
		var result Sent
		ticker := time.NewTicker(interval)
		for i := range count {
			<-ticker.C
			now, err := monotonic()
			if err != nil {
				return err
			}
			binary.BigEndian.PutUint32(packet, uint32(i))
			binary.BigEndian.PutUint64(packet[4:], now)
			if _, err := connection.Write(packet); err != nil {
				result.Errors++
				result.First = err.Error()
			}
		}
		ticker.Stop()
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}

// stampReceive prints what came at each line that it reads, when nothing came
// for the time that the line says.
func stampReceive(in io.Reader, out *json.Encoder, args []string) error {
	address, err := net.ResolveUDPAddr("udp", args[0])
	if err != nil {
		return err
	}
	connection, err := net.ListenUDP("udp", address)
	if err != nil {
		return err
	}
	if err := growBuffer(connection); err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	var line string
	for {
		if _, err := fmt.Fscanln(in, &line); err != nil {
			return nil
		}
		patience, err := time.ParseDuration(line)
		if err != nil {
			return err
		}
		arrivals := []Arrival{}
		buffer := make([]byte, 65536)
		for {
			if err := connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			n, err := connection.Read(buffer)
			if err != nil {
				break
			}
			now, err := monotonic()
			if err != nil {
				return err
			}
			if n < stampHead {
				return fmt.Errorf("a datagram has %d bytes", n)
			}
			sent := binary.BigEndian.Uint64(buffer[4:])
			arrivals = append(arrivals, Arrival{int(binary.BigEndian.Uint32(buffer)), time.Duration(now - sent), time.Duration(now)})
		}
		if err := out.Encode(arrivals); err != nil {
			return err
		}
	}
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
	var ready string
	receiver := Start(t, to, n.B, "stamp-receive", address)
	receiver.Read(&ready)
	sender := Start(t, from, n.A, "stamp-send", address, strconv.Itoa(count), interval.String(), strconv.Itoa(size))
	sender.Read(&ready)
	return DelayPair{sender, receiver, count}
}

// Begin sends all datagrams; End waits for those that are on their way.
func (p DelayPair) Begin(longest time.Duration) {
	// A busy machine may keep the sender waiting between two.
	p.Receiver.Tell((longest + time.Second).String())
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
