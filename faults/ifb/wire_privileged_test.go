//go:build linux && privileged

package ifb_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// What sockets of one machine send to each other comes in at lo.
func TestLoopback(t *testing.T) {
	f := newFixture(t)
	const address, other = "127.0.0.1:7000", "127.0.0.1:7001"
	f.serve(f.neighbour, f.network.A, "udp-echo", address)
	f.serve(f.neighbour, f.network.A, "tcp-serve", address)
	f.serve(f.target, f.network.A, "tcp-serve", other)
	target, inside := f.prober(f.target, f.network.A, address), f.prober(f.target, f.network.A, other)
	neighbour := f.prober(f.neighbour, f.network.A, address)
	d := f.delay(setting{delay: wait}, "lo")

	neighbour.ask("udp", 1)
	neighbour.ask("dial", 0)
	if c := d.count(); c.Matched != 0 || c.Passed != 0 {
		t.Errorf("the neighbour's packets are taken for the target's: %+v", c)
	}
	for what, size := range map[string]int{"udp": 20000, "dial": 0} {
		if answer := target.ask(what, size); answer.Took < wait {
			t.Errorf("%s: an answer came after %s", what, answer.Took)
		}
	}
	// There and back.
	if answer := inside.ask("dial", 0); answer.Took < 2*wait {
		t.Errorf("connected after %s", answer.Took)
	}
	answer := target.ask("stream", 1<<20)
	if answer.Sum != answer.SentSum || answer.Sum == "" {
		t.Errorf("sent %s, got %s", answer.SentSum, answer.Sum)
	}
	if answer.Retransmits > 0 {
		t.Errorf("%d segments were sent again", answer.Retransmits)
	}
	d.settle()
}

// With a namespace of its own everything that comes in is the target's, also
// what no socket is for; but not what keeps the link going.
func TestNamespaceOfTheTarget(t *testing.T) {
	f := newFixture(t)
	inside, outside := f.prober(f.neighbour, f.network.A, env.AddressB), f.prober(f.beyond, f.network.B, env.AddressA)
	d := f.delay(setting{delay: wait, ownNetns: true, peer: netip.MustParseAddr(env.AddressB)}, env.Veth, "lo")
	for name, ask := range map[string]func() Answer{
		"from inside":  func() Answer { return inside.ask("ping", 0) },
		"from outside": func() Answer { return outside.ask("ping", 0) },
	} {
		answer := ask()
		t.Logf("%s %s", name, answer.Took)
		if answer.Took < wait {
			t.Errorf("%s: an answer came after %s", name, answer.Took)
		}
	}
	d.settle()
	if c := d.count(); c.Hit != 2 {
		t.Errorf("two packets came in: %+v", c)
	}
}

// The peer's link address is asked for first, and that is not late: no more
// than with IPv4, whose ARP is not IP.
func TestNeighbourDiscoveryIsNotDelayed(t *testing.T) {
	f := newFixture(t)
	address := "[" + env.Address6B + "]:7000"
	f.answer("udp-echo", address)
	target := f.prober(f.target, f.network.A, address)
	f.network.A.ForgetNeighbours(env.Veth)
	f.network.B.ForgetNeighbours(env.Veth)
	d := f.delay(setting{delay: wait, ownNetns: true, peer: netip.MustParseAddr(env.Address6B)}, env.Veth)
	if took := target.ask("udp", 1).Took; took < wait {
		t.Errorf("an answer came after %s", took)
	}
	d.settle()
	if c := d.count(); c.Hit != 1 {
		t.Errorf("one packet came in beside neighbour discovery: %+v", c)
	}
	if neighbours := f.network.A.Run("ip", "-6", "neighbour", "show", env.Address6B); !strings.Contains(neighbours, "lladdr") {
		t.Errorf("the neighbour was not asked for, the test shows nothing: %s", neighbours)
	}
}

// Without a namespace of its own the target is not known for what has no
// socket that can be looked up.
func TestPingIsNobodys(t *testing.T) {
	f := newFixture(t)
	target := f.prober(f.target, f.network.A, env.AddressB)
	d := f.delay(setting{delay: wait}, env.Veth)
	target.ask("ping", 0)
	if c := d.count(); c.Matched != 0 || c.NoPorts != 1 {
		t.Errorf("%+v", c)
	}
}

// The interfaces above the one by which a packet has come are steered too, and
// it is delayed once.
func TestStackedInterfaces(t *testing.T) {
	const above = "above0"
	for _, test := range []struct {
		kind  string
		stack func(f *fixture)
	}{
		{"bridge", func(f *fixture) {
			f.network.A.Run("ip", "link", "add", above, "type", "bridge")
			f.network.A.Run("ip", "address", "flush", "dev", env.Veth)
			f.network.A.Run("ip", "link", "set", env.Veth, "master", above)
			f.network.A.Run("ip", "address", "add", "10.97.0.1/24", "dev", above)
			f.network.A.Run("ip", "link", "set", above, "up")
			f.network.B.Run("ip", "address", "add", "10.97.0.2/24", "dev", env.Veth)
		}},
		{"vlan", func(f *fixture) {
			for ns, address := range map[*env.Namespace]string{f.network.A: "10.97.0.1/24", f.network.B: "10.97.0.2/24"} {
				ns.Do(func() error {
					lower, err := netlink.LinkByName(env.Veth)
					if err != nil {
						return err
					}
					attrs := netlink.NewLinkAttrs()
					attrs.Name, attrs.ParentIndex = above, lower.Attrs().Index
					err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7})
					if errors.Is(err, os.ErrInvalid) || errors.Is(err, notSupported) {
						kernels.Missing(f.t, "vlan", err)
					}
					return err
				})
				ns.Run("ip", "address", "add", address, "dev", above)
				ns.Run("ip", "link", "set", above, "up")
			}
		}},
		{"macvlan", func(f *fixture) {
			f.network.A.Do(func() error {
				lower, err := netlink.LinkByName(env.Veth)
				if err != nil {
					return err
				}
				attrs := netlink.NewLinkAttrs()
				attrs.Name, attrs.ParentIndex = above, lower.Attrs().Index
				err = netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
				if errors.Is(err, notSupported) {
					kernels.Missing(f.t, "macvlan", err)
				}
				return err
			})
			f.network.A.Run("ip", "address", "add", "10.97.0.1/24", "dev", above)
			f.network.A.Run("ip", "link", "set", above, "up")
			f.network.B.Run("ip", "address", "add", "10.97.0.2/24", "dev", env.Veth)
		}},
	} {
		for _, own := range []bool{false, true} {
			t.Run(test.kind+map[bool]string{true: " of the target"}[own], func(t *testing.T) {
				f := newFixture(t)
				test.stack(f)
				address := "10.97.0.2:7000"
				f.answer("udp-echo", address)
				target := f.prober(f.target, f.network.A, address)
				target.ask("udp", 1)
				d := f.delay(setting{delay: wait, ownNetns: own, peer: netip.MustParseAddr("10.97.0.2")}, env.Veth, above)
				for range times {
					if took := target.ask("udp", 1).Took; took < wait {
						t.Errorf("an answer came after %s", took)
					}
				}
				d.settle()
				if c := d.count(); c.Hit != times {
					t.Errorf("%d packets came in: %+v", times, c)
				}
			})
		}
	}
}

// An interface without a link layer has packets without its header.
func TestInterfaceWithoutALinkLayer(t *testing.T) {
	f := newFixture(t)
	const name = "tun0"
	var tun *netlink.Tuntap
	f.network.A.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		tun = &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, Flags: netlink.TUNTAP_NO_PI, NonPersist: true}
		return netlink.LinkAdd(tun)
	})
	defer func() { _ = tun.Fds[0].Close() }()
	f.network.A.Run("ip", "address", "add", "10.98.0.1/24", "dev", name)
	f.network.A.Run("ip", "link", "set", name, "up")
	f.serve(f.target, f.network.A, "udp-echo", "10.98.0.1:7000")
	d := f.delay(setting{delay: wait}, name)

	packet := udpPacket(net.IPv4(10, 98, 0, 2), net.IPv4(10, 98, 0, 1), 9000, 7000, []byte("hello"))
	start := time.Now()
	if _, err := tun.Fds[0].Write(packet); err != nil {
		t.Fatal(err)
	}
	if err := tun.Fds[0].SetReadDeadline(start.Add(patience)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2000)
	for {
		n, err := tun.Fds[0].Read(buffer)
		if err != nil {
			t.Fatalf("%v: %+v", err, d.count())
		}
		// The kernel sends of its own too.
		if n == len(packet) && buffer[9] == 17 && string(buffer[28:n]) == "hello" {
			break
		}
	}
	if took := time.Since(start); took < wait {
		t.Errorf("an answer came after %s", took)
	}
	d.settle()
}

// udpPacket has no UDP checksum, which IPv4 allows.
func udpPacket(from, to net.IP, fromPort, toPort uint16, payload []byte) []byte {
	packet := make([]byte, 28, 28+len(payload))
	packet[0], packet[8], packet[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(packet[2:], uint16(28+len(payload)))
	copy(packet[12:], from.To4())
	copy(packet[16:], to.To4())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(packet[20:], fromPort)
	binary.BigEndian.PutUint16(packet[22:], toPort)
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(payload)))
	return append(packet, payload...)
}
