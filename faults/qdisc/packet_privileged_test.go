//go:build linux && privileged

package qdisc_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/env"
)

// stamp writes the time at which a packet is to leave (tstamp of struct
// __sk_buff).
func stamp(delay time.Duration) []asm.Instruction {
	const tstamp = 152
	return []asm.Instruction{
		asm.FnKtimeGetNs.Call(),
		asm.LoadImm(asm.R1, int64(delay), asm.DWord),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R6, tstamp, asm.R0, asm.DWord),
	}
}

// socket has room for all packets of a test.
func socket(ns *env.Namespace, address string) (conn *net.UDPConn) {
	ns.Do(func() (err error) {
		if conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(address), Port: 7000}); err != nil {
			return err
		}
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		controlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(syscall.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<26),
				syscall.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<26))
		})
		return errors.Join(err, controlErr)
	})
	return conn
}

// One flow is delayed by more packets than fq takes by default, and none is
// lost, neither to a full queue nor with the fq.
func TestDelayedPacketsAreNotLost(t *testing.T) {
	const packets = 3000
	eachHook(t, func(t *testing.T, hook string) {
		d := trees[0].make(t, hook)
		before := d.dump()
		from, to := socket(d.env, env.AddressA), socket(d.peer, env.AddressB)
		defer func() { _, _ = from.Close(), to.Close() }()
		send := func() {
			if _, err := from.WriteTo([]byte("packet"), &net.UDPAddr{IP: net.ParseIP(env.AddressB), Port: 7000}); err != nil {
				t.Fatal(err)
			}
		}
		receive := func(n int) {
			t.Helper()
			buffer := make([]byte, 100)
			if err := to.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if _, err := to.Read(buffer); err != nil {
					t.Fatalf("%d of %d packets came: %v", i, n, err)
				}
			}
		}
		// The neighbour is known from now on.
		send()
		receive(1)
		a := d.actor(&env.Recorder{}, stamp(2*time.Second)...)
		a.params.Delay = 2 * time.Second
		a.steps(t, begun...)
		for range packets {
			send()
		}
		drops, err := a.hold.Drops()
		if err != nil || drops != 0 {
			t.Errorf("%d lost, %v", drops, err)
		}
		short, cancel := context.WithCancel(t.Context())
		cancel()
		waiting, err := a.hold.Drain(short)
		if err != nil || waiting == 0 {
			t.Errorf("%d wait, %v", waiting, err)
		}
		t.Logf("%d waited", waiting)
		if left, err := a.hold.Drain(t.Context()); err != nil || left != 0 {
			t.Errorf("%d left, %v", left, err)
		}
		a.steps(t, "undo")
		receive(packets)
		d.clean(before)
	})
}

// Each queue of an mq of ours delays. What waits is waited for.
func TestEveryQueueDelays(t *testing.T) {
	const frames = 400
	eachHook(t, func(t *testing.T, hook string) {
		d := newDevice(t, hook, "quad0", "tc qdisc add dev DEV root handle 5: mq")
		before := d.dump()
		a := d.actor(&env.Recorder{}, stamp(2*time.Second)...)
		a.params.Delay = 2 * time.Second
		a.steps(t, begun...)
		received := func() (n uint64) {
			d.env.Do(func() error {
				l, err := netlink.LinkByName("quad1")
				if err == nil {
					n = l.Attrs().Statistics.RxPackets
				}
				return err
			})
			return n
		}
		old := received()
		d.env.Do(func() error {
			// From every processor, as the queue goes by it (netdev_pick_tx).
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<26); err != nil {
				return err
			}
			frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, 50)...)
			for i := range frames {
				var one unix.CPUSet
				one.Set(i % runtime.NumCPU())
				if err := unix.SchedSetaffinity(0, &one); err != nil {
					return err
				}
				if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: d.index, Halen: 6}); err != nil {
					return err
				}
			}
			return nil
		})
		short, cancel := context.WithCancel(t.Context())
		cancel()
		waiting, err := a.hold.Drain(short)
		if err != nil || waiting == 0 {
			t.Errorf("%d wait, %v", waiting, err)
		}
		t.Logf("%d wait:\n%s", waiting, d.run("tc -s qdisc show dev DEV"))
		if left, err := a.hold.Drain(t.Context()); err != nil || left != 0 {
			t.Errorf("%d left, %v", left, err)
		}
		if got := received() - old; got < frames {
			t.Errorf("%d of %d came", got, frames)
		}
		a.steps(t, "undo")
		d.clean(before)
	})
}
