//go:build linux && privileged

package ifb_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

const (
	wait  = 200 * time.Millisecond
	times = 10
)

// The target's packets come in later, by IPv4 and IPv6, to sockets of every
// kind; those of a neighbour at the same interface and from the same peer
// never get near.
func TestTheTargetAloneIsDelayed(t *testing.T) {
	for _, test := range []struct {
		name, server, address, what string
		size, packets               int
	}{
		{"UDP", "udp-echo", env.AddressB, "udp", 1, 1},
		{"UDP over IPv6", "udp-echo", env.Address6B, "udp", 1, 1},
		{"UDP unconnected", "udp-echo", env.AddressB, "sendto", 1, 1},
		{"UDP unconnected over IPv6", "udp-echo", env.Address6B, "sendto", 1, 1},
		// The datagram is as late as its first fragment.
		{"UDP in fragments", "udp-echo", env.AddressB, "udp", 8000, 1},
		{"UDP in fragments over IPv6", "udp-echo", env.Address6B, "udp", 8000, 1},
		{"TCP", "tcp-serve", env.AddressB, "dial", 0, 0},
		{"TCP over IPv6", "tcp-serve", env.Address6B, "dial", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			address := net.JoinHostPort(test.address, "7000")
			f.answer(test.server, address)
			target, neighbour := f.prober(f.target, f.network.A, address), f.prober(f.neighbour, f.network.A, address)
			target.ask(test.what, test.size)
			neighbour.ask(test.what, test.size)
			d := f.delay(setting{delay: wait}, env.Veth)

			fastest := time.Hour
			for range times {
				fastest = min(fastest, neighbour.ask(test.what, test.size).Took)
			}
			t.Logf("neighbour %s", fastest)
			if fastest >= wait {
				t.Errorf("the neighbour waits %s", fastest)
			}
			if c := d.count(); c.Matched != 0 || c.Passed != 0 {
				t.Errorf("the neighbour's packets are taken for the target's: %+v", c)
			}
			fastest = time.Hour
			for range times {
				answer := target.ask(test.what, test.size)
				fastest = min(fastest, answer.Took)
				if answer.Took < wait {
					t.Errorf("an answer came after %s", answer.Took)
				}
				if test.packets > 0 && (answer.Stamped < wait || answer.Stamped > answer.Took) {
					t.Errorf("an answer that took %s has a timestamp after %s", answer.Took, answer.Stamped)
				}
			}
			t.Logf("target %s", fastest)
			d.settle()
			if c := d.count(); test.packets > 0 && c.Hit != times*uint64(test.packets) {
				t.Errorf("%d packets were delayed: %+v", c.Hit, c)
			}
		})
	}
}

func await(t *testing.T, fn func() error) {
	t.Helper()
	if err := env.Within(30*time.Second, fn); err != nil {
		t.Error(err)
	}
}

// A server in the target is slow to answer, and its listener counts for a
// connection that is being made.
func TestAServerIsDelayed(t *testing.T) {
	for name, address := range map[string]string{
		"own address": env.AddressA + ":7000", "IPv6": "[" + env.Address6A + "]:7000",
		// One socket for both families: the peer's address is v4-mapped.
		"every address": ":7000",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.serve(f.target, f.network.A, "tcp-serve", address)
			f.serve(f.neighbour, f.network.A, "tcp-serve", strings.Replace(address, "7000", "7001", 1))
			if address[0] == ':' {
				address = env.AddressA + address
			}
			client := f.prober(f.beyond, f.network.B, address)
			other := f.prober(f.beyond, f.network.B, strings.Replace(address, "7000", "7001", 1))
			d := f.delay(setting{delay: wait}, env.Veth)
			other.ask("dial", 0)
			if c := d.count(); c.Matched != 0 {
				t.Errorf("the neighbour's packets are taken for the target's: %+v", c)
			}
			if took := client.ask("dial", 0).Took; took < wait {
				t.Errorf("connected after %s", took)
			}
		})
	}
}

func TestStreamsArriveWhole(t *testing.T) {
	const (
		size = 4 << 20
		late = 20 * time.Millisecond
		// netem's time is that of a long-distance line. A sender on the same
		// machine whose socket was made to wait for its packets took 60 times
		// as long (TCP Small Queues).
		few = 4
	)
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("tcp-serve", address)
	target := f.prober(f.target, f.network.A, address)
	stream := func() time.Duration {
		t.Helper()
		answer := target.ask("stream", size)
		if answer.Sum != answer.SentSum || answer.Sum == "" {
			t.Errorf("sent %s, got %s", answer.SentSum, answer.Sum)
		}
		return answer.Took
	}
	need(t, kernel.Netem)
	f.network.B.Run("tc", "qdisc", "add", "dev", env.Veth, "root", "netem", "delay", late.String(), "limit", "100000")
	netem := stream()
	f.network.B.Run("tc", "qdisc", "del", "dev", env.Veth, "root")
	d := f.delay(setting{delay: late}, env.Veth)
	took := stream()
	t.Logf("%s, with netem %s, for %d bytes there and back", took, netem, size)
	if took > few*netem {
		t.Errorf("took %s, with netem %s", took, netem)
	}
	d.settle()
}
