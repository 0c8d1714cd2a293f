//go:build linux && privileged

package qdisc_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/asm"
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
