//go:build linux && privileged

package bench_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

const (
	port     = 7000
	portText = "7000"
)

func workloads() map[string]env.Workload {
	all := env.Traffic()
	maps.Copy(all, map[string]env.Workload{"flood": flood, "sink": sink, "tick": tick, "ask": ask, "drain": drain, "pour": pour, "call": call})
	return all
}

// burst is what one measurement of a sender found.
type burst struct {
	// Packets that send accepted, and Refused.
	Packets, Refused uint64
	// CPU and Wall time in nanoseconds. CPU time is that of the sending
	// thread, with what the kernel does for it: over a veth that is all the
	// way into the receiver's socket.
	CPU, Wall int64
}

// flood sends small datagrams to 10.99.0.2:7000 as fast as it can, for each
// duration that it reads.
func flood(in io.Reader, out *json.Encoder, _ []string) error {
	runtime.LockOSThread()
	if err := pin(); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening socket: %w", err)
	}
	to := &unix.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(env.AddressB).To4())}
	if err := unix.Connect(socket, to); err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	return env.Serve(in, out, func(words []string) (any, error) {
		length, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		return send(socket, length)
	})
}

func send(socket int, length time.Duration) (burst, error) {
	// The clock is looked at so seldom that it costs nothing.
	const batch = 64
	var result burst
	payload := make([]byte, 16)
	before, err := threadTime()
	if err != nil {
		return result, err
	}
	start := time.Now()
	for time.Since(start) < length {
		for range batch {
			if _, err := unix.Write(socket, payload); err != nil {
				result.Refused++
			} else {
				result.Packets++
			}
		}
	}
	result.Wall = time.Since(start).Nanoseconds()
	after, err := threadTime()
	result.CPU = after - before
	return result, err
}

// threadTime is the CPU time of the calling thread in nanoseconds.
func threadTime() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	return now.Nano(), nil
}

// pin keeps the calling thread on the first CPU that it may use. The clocks of
// two CPUs need not agree: in software emulation the CPU time of a thread that
// moves between them can be next to nothing.
func pin() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("reading affinity: %w", err)
	}
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("setting affinity: %w", err)
	}
	return nil
}

// sink has a socket that nobody reads: once it is full the kernel drops what
// comes at the very end of its way.
func sink(in io.Reader, out *json.Encoder, _ []string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening socket: %w", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Port: port}); err != nil {
		return fmt.Errorf("binding: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
		return fmt.Errorf("shrinking buffer: %w", err)
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// sender is a flood in a cgroup.
type sender struct {
	process *env.Process
	bursts  []burst
}

func startSender(b testing.TB, p *place, cgroup fault.Cgroup) *sender {
	b.Helper()
	s := &sender{process: env.Start(b, cgroup, p.network.A, "flood")}
	var ready string
	s.process.Read(&ready)
	return s
}

func startSink(b testing.TB, p *place) {
	b.Helper()
	var ready string
	env.Start(b, p.receiver, p.network.B, "sink").Read(&ready)
}

// run sends for that long and keeps the result.
func (s *sender) run(length time.Duration) {
	var result burst
	s.process.Tell(length.String())
	s.process.Read(&result)
	s.bursts = append(s.bursts, result)
}

// warm sends a little that is not kept: addresses are resolved, caches filled.
func (s *sender) warm() uint64 {
	s.run(10 * time.Millisecond)
	sent := s.bursts[0].Packets + s.bursts[0].Refused
	s.bursts = nil
	return sent
}

func (s *sender) sent() (packets uint64) {
	for _, b := range s.bursts {
		packets += b.Packets + b.Refused
	}
	return packets
}

// cpu is the CPU time per packet of each burst in nanoseconds.
func (s *sender) cpu() []float64 {
	return s.each(func(b burst) int64 { return b.CPU })
}

// wall is the time per packet of each burst in nanoseconds.
func (s *sender) wall() []float64 {
	return s.each(func(b burst) int64 { return b.Wall })
}

func (s *sender) each(of func(burst) int64) (list []float64) {
	for _, b := range s.bursts {
		list = append(list, float64(of(b))/float64(b.Packets+b.Refused))
	}
	return list
}
