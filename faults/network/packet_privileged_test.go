//go:build linux && privileged

package network

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/fault"
)

const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolICMP = 1
	hopByHop     = 0
	routing      = 43
	fragment     = 44
	authentic    = 51
	options      = 60
	icmp6        = 58
)

// ports7000 is a transport header from port 1234 to port 7000, with SYN where
// TCP has its flags.
func ports7000() []byte {
	header := make([]byte, 20)
	binary.BigEndian.PutUint16(header[0:], 1234)
	binary.BigEndian.PutUint16(header[2:], 7000)
	header[13] = 0x02
	return header
}

func ipv4(protocol byte, fragmentField uint16, ipOptions, payload []byte) []byte {
	header := make([]byte, 20)
	header[0] = 0x40 | byte(5+len(ipOptions)/4)
	binary.BigEndian.PutUint16(header[6:], fragmentField)
	header[9] = protocol
	copy(header[12:], net.IPv4(10, 0, 0, 1).To4())
	copy(header[16:], net.IPv4(10, 0, 0, 2).To4())
	return ethernet(0x0800, append(append(header, ipOptions...), payload...))
}

func ipv6(next byte, payload []byte) []byte {
	header := make([]byte, 40)
	header[0] = 0x60
	header[6] = next
	copy(header[8:], net.ParseIP("fd00::1"))
	copy(header[24:], net.ParseIP("fd00::2"))
	return ethernet(0x86dd, append(header, payload...))
}

// extension is an IPv6 extension header of 8 bytes and more.
func extension(next, length byte, size int, offset uint16) []byte {
	header := make([]byte, size)
	header[0], header[1] = next, length
	binary.BigEndian.PutUint16(header[2:], offset)
	return header
}

func ethernet(kind uint16, payload []byte) []byte {
	frame := make([]byte, 14, 14+len(payload))
	binary.BigEndian.PutUint16(frame[12:], kind)
	return append(frame, payload...)
}

func join(parts ...[]byte) (all []byte) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// The programs are run by the kernel on packets that no socket would make.
func TestPacketsOfEveryShape(t *testing.T) {
	udp := &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP}
	var many []byte
	for range 9 {
		many = append(many, extension(options, 0, 8, 0)...)
	}
	for _, test := range []struct {
		name    string
		filter  *v1.Filter
		packet  []byte
		matches bool
	}{
		{"IPv4", udp, ipv4(protocolUDP, 0, nil, ports7000()), true},
		{"IPv4 with options", udp, ipv4(protocolUDP, 0, make([]byte, 40), ports7000()), true},
		{"IPv4 that may not be cut", udp, ipv4(protocolUDP, 0x4000, nil, ports7000()), true},
		{"IPv4 first fragment", udp, ipv4(protocolUDP, 0x2000, nil, ports7000()), true},
		{"IPv4 later fragment has no ports", udp, ipv4(protocolUDP, 0x2001, nil, ports7000()), false},
		{"IPv4 later fragment without a port filter", nil, ipv4(protocolUDP, 0x2001, nil, ports7000()), true},
		{"IPv4 without its transport header", udp, ipv4(protocolUDP, 0, nil, []byte{1, 2}), false},
		{"TCP for UDP", udp, ipv4(protocolTCP, 0, nil, ports7000()), false},
		{"SYN is new", &v1.Filter{Connections: v1.Filter_NEW}, ipv4(protocolTCP, 0, nil, ports7000()), true},
		{"SYN is not established", &v1.Filter{Connections: v1.Filter_ESTABLISHED}, ipv4(protocolTCP, 0, nil, ports7000()), false},
		{"ICMP", &v1.Filter{Protocol: v1.Filter_ICMP}, ipv4(protocolICMP, 0, nil, make([]byte, 8)), true},
		{"ICMPv6", &v1.Filter{Protocol: v1.Filter_ICMP}, ipv6(icmp6, make([]byte, 8)), true},
		{"ICMP has no ports", &v1.Filter{Ports: []string{"1-65535"}}, ipv4(protocolICMP, 0, nil, make([]byte, 8)), false},
		{"excluded ports don't exclude ICMP", &v1.Filter{ExcludePorts: []string{"1-65535"}}, ipv4(protocolICMP, 0, nil, make([]byte, 8)), true},
		{"IPv6", udp, ipv6(protocolUDP, ports7000()), true},
		{"IPv6 with extensions", udp, ipv6(hopByHop, join(
			extension(routing, 0, 8, 0), extension(options, 2, 24, 0), extension(authentic, 1, 16, 0),
			extension(protocolUDP, 2, 16, 0), ports7000())), true},
		{"IPv6 with an authentication header", udp, ipv6(authentic, join(extension(protocolUDP, 4, 24, 0), ports7000())), true},
		{"IPv6 first fragment", udp, ipv6(fragment, join(extension(protocolUDP, 0, 8, 1), ports7000())), true},
		{"IPv6 later fragment", udp, ipv6(fragment, join(extension(protocolUDP, 0, 8, 8), ports7000())), false},
		{"IPv6 later fragment without a port filter", &v1.Filter{Protocol: v1.Filter_UDP}, ipv6(fragment, join(extension(protocolUDP, 0, 8, 8), ports7000())), true},
		{"IPv6 with an extension cut short", nil, ipv6(hopByHop, []byte{protocolUDP}), false},
		{"IPv6 with more extensions than are followed", udp, ipv6(options, join(many, ports7000())), false},
		{"not IP", nil, ethernet(0x0806, make([]byte, 28)), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := runnable(t, test.filter)
			if _, err := in.programs[cgroupskb.ObjectsProgFlDropEgress].Run(&ebpf.RunOptions{Data: test.packet}); err != nil {
				t.Fatal(err)
			}
			counters, err := in.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if matches := counters.Matched == 1; matches != test.matches {
				t.Errorf("matches: %v, want %v", matches, test.matches)
			}
		})
	}
}

// loadAlone loads the programs of a fault that is alone in its run.
func loadAlone(t *testing.T, in *injection) {
	t.Helper()
	w, err := newWire()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if in.number, err = w.join(); err != nil {
		t.Fatal(err)
	}
	in.wire = w
	if err := in.load(); err != nil {
		t.Fatal(err)
	}
}

// runnable has its programs loaded and started, and attached nowhere.
func runnable(t *testing.T, spec *v1.Filter) *injection {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(t.Context(), "networkLoss", fault.Request{
		Spec: &v1.Fault{Filter: spec},
		Log:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.egressProgram = cgroupskb.ObjectsProgFlDropEgress
	in := newInjection(p)
	loadAlone(t, in)
	t.Cleanup(func() {
		if err := in.Revert(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := in.fill(); err != nil {
		t.Fatal(err)
	}
	if err := in.Start(fault.Lease{Deadline: fault.BootTime() + uint64(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	return in
}
