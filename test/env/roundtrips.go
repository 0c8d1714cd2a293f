//go:build linux

package env

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
)

// patience is how long a round trip is waited for.
const patience = 10 * time.Second

// roundTrips measures round trips to the host args[0], whose TCP port args[1] is
// open, at each line that it reads: how ("ping" or "dial"), how many, and how
// long after one the next one begins. Several are under way at a time.
func roundTrips(in io.Reader, out *json.Encoder, args []string) error {
	return Serve(in, out, func(words []string) (any, error) {
		how := words[0]
		count, err := strconv.Atoi(words[1])
		if err != nil {
			return nil, err
		}
		interval, err := time.ParseDuration(words[2])
		if err != nil {
			return nil, err
		}
		var times []time.Duration
		if how == "ping" {
			times, err = ping(args[0], count, interval)
		} else {
			times, err = dial(net.JoinHostPort(args[0], args[1]), count, interval)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", how, err)
		}
		return times, nil
	})
}

// dial measures how long connecting takes.
func dial(address string, count int, interval time.Duration) ([]time.Duration, error) {
	times, errs := make([]time.Duration, count), make([]error, count)
	var all sync.WaitGroup
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for i := range count {
		<-ticker.C
		all.Add(1)
		go func() {
			defer all.Done()
			start := time.Now()
			connection, err := net.DialTimeout("tcp", address, patience)
			times[i] = time.Since(start)
			if err == nil {
				err = connection.Close()
			}
			errs[i] = err
		}()
	}
	all.Wait()
	return times, errors.Join(errs...)
}

// Types of ICMP (RFC 792).
const (
	icmpEchoReply = 0
	icmpEcho      = 8
)

// ping measures ICMP echoes over IPv4.
func ping(host string, count int, interval time.Duration) ([]time.Duration, error) {
	remote, err := net.ResolveIPAddr("ip4", host)
	if err != nil {
		return nil, err
	}
	connection, err := net.DialIP("ip4:icmp", nil, remote)
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	id := uint16(os.Getpid())
	sent := make([]time.Time, count)
	var mu sync.Mutex
	failed := make(chan error, 1)
	go func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for i := range sent {
			<-ticker.C
			mu.Lock()
			sent[i] = time.Now()
			mu.Unlock()
			if _, err := connection.Write(echoRequest(id, uint16(i))); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	times, err := echoes(connection, id, count, func(i int, now time.Time) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return now.Sub(sent[i])
	})
	return times, errors.Join(err, <-failed)
}

// echoes reads the answers to count requests.
func echoes(connection *net.IPConn, id uint16, count int, since func(int, time.Time) time.Duration) ([]time.Duration, error) {
	times := make([]time.Duration, count)
	buffer := make([]byte, 1500)
	for left := count; left > 0; {
		if err := connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		// Unlike Read, it takes the IP header off.
		n, _, err := connection.ReadFrom(buffer)
		if err != nil {
			return nil, fmt.Errorf("%d of %d answers are missing: %w", left, count, err)
		}
		now := time.Now()
		message := buffer[:n]
		if n < 8 || message[0] != icmpEchoReply || binary.BigEndian.Uint16(message[4:]) != id {
			continue
		}
		i := int(binary.BigEndian.Uint16(message[6:]))
		if i < count && times[i] == 0 {
			times[i] = since(i, now)
			left--
		}
	}
	return times, nil
}

func echoRequest(id, sequence uint16) []byte {
	message := make([]byte, 16)
	message[0] = icmpEcho
	binary.BigEndian.PutUint16(message[4:], id)
	binary.BigEndian.PutUint16(message[6:], sequence)
	var sum uint32
	for i := 0; i < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum+sum>>16))
	return message
}

// roundTripPort is the port that is open for round trips.
const roundTripPort = 7100

// RoundTrips is a process in A that measures round trips to B, by IPv4.
type RoundTrips struct{ process *Process }

// ServeRoundTrips opens the port in B, in the cgroup.
func ServeRoundTrips(t testing.TB, n Network, cgroup fault.Cgroup) {
	t.Helper()
	var ready string
	Start(t, cgroup, n.B, "tcp-serve", net.JoinHostPort(AddressB, strconv.Itoa(roundTripPort))).Read(&ready)
}

// NewRoundTrips starts the process in the cgroup. The port is open by now.
func NewRoundTrips(t testing.TB, n Network, cgroup fault.Cgroup) RoundTrips {
	t.Helper()
	var ready string
	process := Start(t, cgroup, n.A, "round-trips", AddressB, strconv.Itoa(roundTripPort))
	process.Read(&ready)
	return RoundTrips{process}
}

// Ping begins to measure that many ICMP echoes, of which one is sent each
// interval; Times returns them.
func (r RoundTrips) Ping(count int, interval time.Duration) { r.measure("ping", count, interval) }

// Dial begins to measure how long TCP takes to connect, that many times; Times
// returns them.
func (r RoundTrips) Dial(count int, interval time.Duration) { r.measure("dial", count, interval) }

func (r RoundTrips) measure(how string, count int, interval time.Duration) {
	r.process.Tell(fmt.Sprintf("%s %d %s", how, count, interval))
}

// Times waits for what was begun last.
func (r RoundTrips) Times() (times []time.Duration) {
	r.process.Read(&times)
	return times
}
