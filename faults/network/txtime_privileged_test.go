//go:build linux && privileged

package network_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// timed is a datagram that is to leave at a time of its sender's.
type timed struct {
	Clock int32
	In    time.Duration
}

// timedSend sends to args[0] a datagram for each line that it reads, with
// SO_TXTIME (linux/net_tstamp.h). They are those of env.DelayPair.
func timedSend(in io.Reader, out *json.Encoder, args []string) error {
	to, err := net.ResolveUDPAddr("udp4", args[0])
	if err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	lines := json.NewDecoder(in)
	for number := uint32(0); ; number++ {
		var what timed
		if err := lines.Decode(&what); err != nil {
			return nil
		}
		var result env.Sent
		if err := what.send(number, to); err != nil {
			result = env.Sent{Errors: 1, First: err.Error()}
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}

func (w timed) send(number uint32, to *net.UDPAddr) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	// struct sock_txtime: the clock, and no flags
	option := binary.NativeEndian.AppendUint32(nil, uint32(w.Clock))
	option = binary.NativeEndian.AppendUint32(option, 0)
	if err := unix.SetsockoptString(socket, unix.SOL_SOCKET, unix.SO_TXTIME, string(option)); err != nil {
		return fmt.Errorf("setting SO_TXTIME: %w", err)
	}
	var monotonic, now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic); err != nil {
		return err
	}
	if err := unix.ClockGettime(w.Clock, &now); err != nil {
		return err
	}
	packet := binary.BigEndian.AppendUint32(nil, number)
	packet = binary.BigEndian.AppendUint64(packet, uint64(monotonic.Nano()))
	control := make([]byte, unix.CmsgSpace(8))
	binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(8)))
	binary.NativeEndian.PutUint32(control[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(control[12:], unix.SO_TXTIME) // SCM_TXTIME
	binary.NativeEndian.PutUint64(control[unix.CmsgLen(0):], uint64(now.Nano()+int64(w.In)))
	return unix.Sendmsg(socket, packet, control, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}, 0)
}

// A packet that its sender wants to leave later is delayed from then on. A time
// that can't be meant, as one of another clock than fq's, does not make it wait
// for fq's horizon, or vanish beyond it.
func TestLatencyOfTimedPackets(t *testing.T) {
	const (
		delay = 100 * time.Millisecond
		soon  = 400 * time.Millisecond
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Latency(), mechanism)
			var ready string
			receiver := env.Start(t, f.neighbour, f.network.B, "stamp-receive", env.AddressB+":7000")
			receiver.Read(&ready)
			sender := env.Start(t, f.target, f.network.A, "timed-send", env.AddressB+":7000")
			sender.Read(&ready)
			spec := late(delay)
			spec.Mechanism = mechanism
			injection := f.inject(network.Latency(), spec)
			packets := []struct {
				timed
				least time.Duration
			}{
				{timed{unix.CLOCK_MONOTONIC, -time.Second}, delay},
				{timed{unix.CLOCK_MONOTONIC, soon}, soon + delay},
				{timed{unix.CLOCK_MONOTONIC, 2 * time.Hour}, delay},
				{timed{unix.CLOCK_TAI, 0}, delay},
				{timed{unix.CLOCK_TAI, 100 * 365 * 24 * time.Hour}, delay},
			}
			// Well below the 10 s that fq would hold them.
			const patience = 5 * time.Second
			for i, packet := range packets {
				receiver.Tell(fmt.Sprintf("%s %s", patience, time.Millisecond))
				line, err := json.Marshal(packet.timed)
				if err != nil {
					t.Fatal(err)
				}
				sender.Tell(string(line))
				var sent env.Sent
				sender.Read(&sent)
				var arrivals []env.Arrival
				receiver.Read(&arrivals)
				if sent.Errors > 0 || len(arrivals) != 1 || arrivals[0].Number != i {
					t.Errorf("%+v: came as %+v, error %q", packet.timed, arrivals, sent.First)
					continue
				}
				if took := arrivals[0].Took; took < packet.least {
					t.Errorf("%+v: it came after %s, want %s", packet.timed, took, packet.least)
				}
			}
			injection.End()
			all := uint64(len(packets))
			f.counted(injection, fault.Counters{Matched: all, Injected: all})
		})
	}
}
