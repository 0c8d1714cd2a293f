//go:build linux && privileged

package network_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// Wherever the target's packets leave the machine or reach another process of
// it, each is held once, and the qdiscs there are what they were. Of the
// mechanisms it is the one that auto takes.
func TestLatencyEverywhere(t *testing.T) {
	const (
		count = 100
		delay = 150 * time.Millisecond
	)
	for name, place := range map[string]struct {
		network func(t *testing.T) env.Network
		// interfaces of A that get an fq
		interfaces []string
		peers      []string
	}{
		"container": {container, []string{env.Veth, "lo"}, []string{env.AddressB, env.Address6B}},
		"loopback":  {func(t *testing.T) env.Network { return env.NewLoopback(t) }, []string{"lo"}, []string{"127.0.0.1", "::1"}},
		"own NIC":   {ownNIC, []string{env.Veth, "lo"}, []string{env.AddressA, env.Address6A}},
		"VLAN":      {vlan, []string{env.VLAN, env.Veth, "lo"}, []string{env.VLANAddressB, env.VLANAddress6B}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, network.Latency(), "cls_bpf_fq")
			f.network = place.network(t)
			var pairs []env.DelayPair
			for _, host := range place.peers {
				pairs = append(pairs, env.NewDelayPair(t, f.network, f.target, f.neighbour, udpAddress(host), count, time.Millisecond))
			}
			before := f.state()
			injection := f.inject(network.Latency(), late(delay))
			for _, name := range place.interfaces {
				if !f.holds(name) {
					t.Errorf("%s has no fq", name)
				}
			}
			for _, pair := range pairs {
				pair.Begin(delay)
			}
			for i, pair := range pairs {
				sent, arrivals := pair.End()
				if sent.Errors > 0 || len(arrivals) != count {
					t.Fatalf("%s: %d came of %d, %d errors: %s", place.peers[i], len(arrivals), count, sent.Errors, sent.First)
				}
				took := env.Took(arrivals)
				t.Logf("%s: least %s, p50 %s", place.peers[i], env.Quantile(took, 0), env.Quantile(took, 0.5))
				if least := env.Quantile(took, 0); least < delay || least >= 2*delay {
					t.Errorf("%s: the fastest packet took %s, want %s and little more", place.peers[i], least, delay)
				}
			}
			all := uint64(count * len(pairs))
			injection.End()
			f.counted(injection, fault.Counters{Matched: all, Injected: all})
			env.Unchanged(t, before, f.state())
		})
	}
}

// ownNIC is a host whose processes reach each other by the address of its
// network card: by lo.
func ownNIC(t *testing.T) env.Network {
	n := env.NewNetwork(t)
	n.B = n.A
	return n
}

func container(t *testing.T) env.Network {
	n, err := env.NewContainer(t)
	if err != nil {
		kernels.Missing(t, "bridge", err)
	}
	return n
}

func vlan(t *testing.T) env.Network {
	n := env.NewNetwork(t)
	if err := n.AddVLAN(); err != nil {
		kernels.Missing(t, "vlan", err)
	}
	return n
}

// Qdiscs and filters of others, at both directions, are what they were, to the
// last byte; ours come first, though that of the others ends the chain.
func TestLatencyBesideOthersFilters(t *testing.T) {
	const (
		count = 100
		delay = 150 * time.Millisecond
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Latency(), mechanism)
			for _, command := range [][]string{
				{"qdisc", "add", "dev", env.Veth, "clsact"},
				{"filter", "add", "dev", env.Veth, "egress", "pref", "10", "protocol", "ip", "u32", "match", "u32", "0", "0", "flowid", "1:1"},
				{"filter", "add", "dev", env.Veth, "egress", "pref", "20", "protocol", "all", "matchall", "flowid", "1:2"},
				{"filter", "add", "dev", env.Veth, "ingress", "pref", "1", "protocol", "all", "matchall", "flowid", "1:3"},
			} {
				f.network.A.Run("tc", command...)
			}
			before := f.state()
			pair := env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, time.Millisecond)
			spec := late(delay)
			spec.Mechanism = mechanism
			injection := f.inject(network.Latency(), spec)
			if f.state() == before {
				t.Error("the state under the fault is that before: this shows nothing")
			}
			sent, arrivals := pair.Exchange(delay)
			injection.End()
			if sent.Errors > 0 || len(arrivals) != count {
				t.Fatalf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
			}
			if least := env.Quantile(env.Took(arrivals), 0); least < delay {
				t.Errorf("a packet came after %s", least)
			}
			env.Unchanged(t, before, f.state())
		})
	}
}

// state is all that tc tells of A but counters.
func (f *fixture) state() string {
	text := f.network.A.Run("tc", "-d", "qdisc", "show")
	for _, name := range f.interfaces() {
		for _, hook := range []string{"ingress", "egress", "root"} {
			text += name + " " + hook + "\n" + f.network.A.Run("tc", "-d", "filter", "show", "dev", name, hook)
		}
	}
	return text
}

// interfaces are those of A.
func (f *fixture) interfaces() (names []string) {
	f.network.A.Do(func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			names = append(names, link.Attrs().Name)
		}
		return err
	})
	return names
}

// holds tells whether an interface of A has an fq at its root.
func (f *fixture) holds(name string) bool {
	return strings.Contains(f.network.A.Run("tc", "qdisc", "show", "dev", name, "root"), "qdisc fq ")
}

func udpAddress(host string) string { return net.JoinHostPort(host, "7000") }
