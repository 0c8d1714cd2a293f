//go:build linux && privileged

package network_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

func partition(filter *v1.Filter) *v1.Fault {
	return &v1.Fault{Filter: filter, Fault: &v1.Fault_NetworkPartition{NetworkPartition: &v1.NetworkPartition{}}}
}

func TestPartitionLosesEverythingSilently(t *testing.T) {
	f := newFixture(t, network.Partition(), "cgroup_skb")
	pair := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 500)
	injection := f.inject(network.Partition(), partition(&v1.Filter{Ports: []string{"7000"}}))
	result, lost := pair.Exchange()
	if result.Errors != 0 || len(lost) != pair.Count {
		t.Errorf("%d errors (%s), lost %d of %d", result.Errors, result.First, len(lost), pair.Count)
	}
	injection.End()
	f.counted(injection, fault.Counters{Matched: 500, Injected: 500})
	if _, lost := pair.Exchange(); len(lost) != 0 {
		t.Errorf("after the revert: lost %d", len(lost))
	}
}

func TestPartitionOfTCPHealsWhenItEnds(t *testing.T) {
	f := newFixture(t, network.Partition(), "cgroup_skb")
	address := env.AddressB + ":7001"
	open := env.NewTCPPair(t, f.network, f.target, f.neighbour, address, time.Minute)
	late := env.NewTCPClient(t, f.network, f.target, address, 500*time.Millisecond)
	if result := open.Try("dial"); result.Error != "" {
		t.Fatal(result.Error)
	}
	injection := f.inject(network.Partition(), partition(&v1.Filter{Ports: []string{"7001"}}))
	if result := late.Try("dial"); !strings.Contains(result.Error, "timeout") {
		t.Errorf("a new connection ended with %q, want a timeout", result.Error)
	}
	open.Client.Tell("send")
	err := env.Within(30*time.Second, func() error {
		counters, err := injection.Counters()
		if err != nil || counters.Injected < 4 {
			return errors.Join(errNotYet, err)
		}
		return nil
	})
	if err != nil {
		t.Error("the open connection did not try again")
	}
	injection.End()
	var result env.Transfer
	if open.Client.Read(&result); result.Error != "" {
		t.Errorf("the open connection did not heal: %s", result.Error)
	}
	if result := late.Try("dial"); result.Error != "" {
		t.Errorf("a new connection after the revert: %s", result.Error)
	}
}

// Each filter is asked whether it takes datagrams from A to B, port 7000.
func TestFilters(t *testing.T) {
	f := newFixture(t, network.Partition(), "cgroup_skb")
	v4 := env.NewUDPPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 20)
	v6 := env.NewUDPPair(t, f.network, f.target, f.neighbour, "["+env.Address6B+"]:7000", 20)
	for _, test := range []struct {
		name           string
		filter         *v1.Filter
		takes4, takes6 bool
	}{
		{"nothing given", nil, true, true},
		{"port", &v1.Filter{Ports: []string{"7000"}}, true, true},
		{"other port", &v1.Filter{Ports: []string{"7001"}}, false, false},
		{"port range", &v1.Filter{Ports: []string{"1-10", "6990-7000"}}, true, true},
		{"range with a hole", &v1.Filter{Ports: []string{"1-65535"}, ExcludePorts: []string{"7000"}}, false, false},
		{"excluded port only", &v1.Filter{ExcludePorts: []string{"7000"}}, false, false},
		{"other excluded port only", &v1.Filter{ExcludePorts: []string{"7001"}}, true, true},
		{"local port of the peer", &v1.Filter{LocalPorts: []string{"7000"}}, false, false},
		{"local ports", &v1.Filter{LocalPorts: []string{"1024-65535"}}, true, true},
		{"protocol", &v1.Filter{Protocol: v1.Filter_UDP}, true, true},
		{"other protocol", &v1.Filter{Protocol: v1.Filter_TCP}, false, false},
		{"ICMP", &v1.Filter{Protocol: v1.Filter_ICMP}, false, false},
		{"direction", &v1.Filter{Direction: v1.Filter_EGRESS}, true, true},
		{"other direction", &v1.Filter{Direction: v1.Filter_INGRESS}, false, false},
		{"IPv4 address", &v1.Filter{Peers: []string{env.AddressB}}, true, false},
		{"IPv4 prefix", &v1.Filter{Peers: []string{"10.96.0.0/13"}}, true, false},
		{"other IPv4 prefix", &v1.Filter{Peers: []string{"10.88.0.0/13"}}, false, false},
		{"all of IPv4", &v1.Filter{Peers: []string{"0.0.0.0/0"}}, true, false},
		{"IPv6 address", &v1.Filter{Peers: []string{env.Address6B}}, false, true},
		{"IPv6 prefix", &v1.Filter{Peers: []string{"fd00::/8"}}, false, true},
		{"both families", &v1.Filter{Peers: []string{"fd00::/8", "10.0.0.0/8"}}, true, true},
		{"own address", &v1.Filter{Peers: []string{env.AddressA, env.Address6A}}, false, false},
		{"excluded peer", &v1.Filter{ExcludePeers: []string{env.AddressB}}, false, true},
		{"peer with an excluded part", &v1.Filter{Peers: []string{"10.0.0.0/8"}, ExcludePeers: []string{"10.99.0.0/24"}}, false, false},
		{"connections are TCP's", &v1.Filter{Connections: v1.Filter_NEW}, false, false},
		{"host", &v1.Filter{Hosts: []string{"database.test"}}, true, false},
		{"host or peer", &v1.Filter{Hosts: []string{"database.test"}, Peers: []string{env.Address6B}}, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.t = t
			injection := f.inject(network.Partition(), partition(test.filter))
			for pair, takes := range map[*env.UDPPair]bool{&v4: test.takes4, &v6: test.takes6} {
				_, lost := pair.Exchange()
				if want := map[bool]int{true: pair.Count}[takes]; len(lost) != want {
					t.Errorf("lost %d of %d, want %d", len(lost), pair.Count, want)
				}
			}
			injection.End()
		})
	}
}

// New connections fail while the open one goes on, and the reverse.
func TestConnectionsNewAndEstablished(t *testing.T) {
	f := newFixture(t, network.Partition(), "cgroup_skb")
	address := env.AddressB + ":7001"
	open := env.NewTCPPair(t, f.network, f.target, f.neighbour, address, 5*time.Second)
	late := env.NewTCPClient(t, f.network, f.target, address, 500*time.Millisecond)
	if result := open.Try("dial"); result.Error != "" {
		t.Fatal(result.Error)
	}
	injection := f.inject(network.Partition(), partition(&v1.Filter{Connections: v1.Filter_NEW}))
	if result := late.Try("dial"); result.Error == "" {
		t.Error("NEW let a new connection through")
	}
	if result := open.Try("send"); result.Error != "" {
		t.Errorf("NEW broke an open connection: %s", result.Error)
	}
	injection.End()
	f.inject(network.Partition(), partition(&v1.Filter{Connections: v1.Filter_ESTABLISHED}))
	// The handshake's last ACK has no SYN, but the client does not wait for it.
	if result := late.Try("dial"); result.Error != "" {
		t.Errorf("ESTABLISHED kept a connection from being opened: %s", result.Error)
	}
	if result := late.Try("send"); result.Error == "" {
		t.Error("ESTABLISHED let data through")
	}
}

func TestSSHAndTheControlPlaneAreExempt(t *testing.T) {
	for _, test := range []struct {
		name, address string
		filter        *v1.Filter
		dials         bool
	}{
		{"SSH is exempt", env.AddressB + ":22", nil, true},
		{"SSH is exempt from a range", env.AddressB + ":22", &v1.Filter{Ports: []string{"1-1024"}}, true},
		{"SSH is named", env.AddressB + ":22", &v1.Filter{Ports: []string{"22"}}, false},
		{"the control plane is exempt", env.AddressB + ":7002", nil, true},
		{"the control plane is named", env.AddressB + ":7002", &v1.Filter{Peers: []string{env.AddressB}}, false},
		{"another port of the control plane's address", env.AddressB + ":7003", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, network.Partition(), "cgroup_skb")
			f.exempt = []netip.AddrPort{netip.MustParseAddrPort(env.AddressB + ":7002")}
			pair := env.NewTCPPair(t, f.network, f.target, f.neighbour, test.address, time.Second)
			f.inject(network.Partition(), partition(test.filter))
			if result := pair.Try("dial"); (result.Error == "") != test.dials {
				t.Errorf("dialling ended with %q", result.Error)
			}
		})
	}
}

func TestUnknownHostIsNeverEverybody(t *testing.T) {
	f := newFixture(t, network.Partition(), "cgroup_skb")
	_, err := f.plan(network.Partition(), partition(&v1.Filter{Hosts: []string{"nowhere.test"}}))
	if err == nil || !strings.Contains(err.Error(), "nowhere.test") {
		t.Errorf("planning ended with %v", err)
	}
}

// names is a resolver that knows one name.
type names struct{}

func (names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "database.test" {
		return []netip.Addr{netip.MustParseAddr(env.AddressB)}, nil
	}
	return nil, errors.New("no such host")
}
