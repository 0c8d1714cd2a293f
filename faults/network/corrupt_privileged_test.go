//go:build linux && privileged

package network_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

var checksums = []v1.NetworkCorrupt_Checksum{v1.NetworkCorrupt_RIGHT, v1.NetworkCorrupt_WRONG}

// damaged flips a bit in some of the packets to the ports 7000 to 7009.
func damaged(percent float64, checksum v1.NetworkCorrupt_Checksum) *v1.Fault {
	return &v1.Fault{
		Filter: &v1.Filter{Ports: []string{"7000-7009"}},
		Fault:  &v1.Fault_NetworkCorrupt{NetworkCorrupt: &v1.NetworkCorrupt{Percent: percent, Checksum: checksum}},
	}
}

// sizes of datagrams: without payload, too short for what the programs take off
// for a moment, odd, as large as the MTU allows, in fragments, and larger than
// the programs can enlarge a packet.
var sizes = []int{0, 1, 2, 3, 26, 27, 28, 46, 47, 100, 101, 1000, 1452, 1472, 1473, 4000, 20000}

// sumErrors are the counters of a namespace for packets with a wrong checksum.
var sumErrors = []string{"Udp InCsumErrors", "Udp6InCsumErrors", "Tcp InCsumErrors"}

func countSumErrors(n *env.Namespace) (sum int) {
	for _, name := range sumErrors {
		sum += n.SNMP(name)
	}
	return sum
}

// Those packets are damaged that the seed says, and in the bit that it says: what
// the receiver gets when the checksum is right, and what its kernel drops and
// counts when it is wrong.
func TestDamageIsThatOfTheSeed(t *testing.T) {
	const rounds = 8
	for _, checksum := range checksums {
		for _, mechanism := range []string{"tcx", "cls_bpf"} {
			t.Run(checksum.String()+"/"+mechanism, func(t *testing.T) {
				f := newFixture(t, network.Corrupt(), mechanism)
				count := rounds * len(sizes)
				between := func(from, to *env.Namespace, sender fault.Cgroup, address string) env.ContentPair {
					return env.NewContentPair(t, from, to, sender, f.neighbour, address, count, sizes...)
				}
				a, b := f.network.A, f.network.B
				other := between(a, b, f.neighbour, env.AddressB+":7003")
				routes := []struct {
					name string
					pair env.ContentPair
					at   *env.Namespace
				}{
					{"IPv4", between(a, b, f.target, env.AddressB+":7000"), b},
					{"IPv6", between(a, b, f.target, "["+env.Address6B+"]:7001"), b},
					{"loopback", between(a, a, f.target, "127.0.0.1:7002"), a},
					{"loopback IPv6", between(a, a, f.target, "[::1]:7004"), a},
					// The receivers look at the checksums of these.
					{"IPv4 without offload", between(a, b, f.target, env.AddressB+":7005"), b},
					{"IPv6 without offload", between(a, b, f.target, "["+env.Address6B+"]:7006"), b},
				}
				spec := damaged(30, checksum)
				spec.Mechanism = mechanism
				injection := f.inject(network.Corrupt(), spec)
				if _, came := other.Exchange(); !equal(came, other.Sent()) {
					t.Error("the neighbour's packets are not as they were sent")
				}
				seed := newDamage(spec)
				for i, r := range routes {
					if i == 4 {
						a.NoChecksumOffload()
					}
					before := countSumErrors(r.at)
					want, hits := seed.of(r.pair.Sent(), checksum)
					sent, came := r.pair.Exchange()
					if sent.Errors > 0 {
						t.Errorf("%s: %d of the sends failed: %s", r.name, sent.Errors, sent.First)
					}
					compare(t, r.name, came, want)
					if checksum == v1.NetworkCorrupt_RIGHT {
						hits = 0
					}
					if errors := countSumErrors(r.at) - before; errors != hits {
						t.Errorf("%s: %d packets with a wrong checksum, want %d", r.name, errors, hits)
					}
				}
				injection.End()
				f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
			})
		}
	}
}

// damage repeats what the programs do.
type damage struct {
	sequence          *dice.Sequence
	matched, injected uint64
}

func newDamage(spec *v1.Fault) *damage {
	config := dice.New(seed, spec)
	config.Share(spec.GetNetworkCorrupt())
	return &damage{sequence: dice.NewSequence(config)}
}

// of returns what arrives, and how many were hit.
func (d *damage) of(sent [][]byte, checksum v1.NetworkCorrupt_Checksum) (arrive [][]byte, hits int) {
	for _, content := range sent {
		if len(content) > 0 {
			hit := d.sequence.Next()
			d.matched++
			if hit {
				d.injected++
				hits++
				bit := dice.Bit(seed, d.matched-1, len(content))
				content[bit/8] ^= 1 << (bit % 8)
			}
			if hit && checksum == v1.NetworkCorrupt_WRONG {
				continue
			}
		}
		arrive = append(arrive, content)
	}
	return arrive, hits
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// compare says where the first difference is.
func compare(t *testing.T, name string, came, want [][]byte) {
	t.Helper()
	if len(came) != len(want) {
		t.Errorf("%s: %d datagrams came, want %d", name, len(came), len(want))
	}
	for i := range min(len(came), len(want)) {
		if bytes.Equal(came[i], want[i]) {
			continue
		}
		t.Errorf("%s: datagram %d, of %d bytes, is not the one of %d bytes that was expected", name, i, len(came[i]), len(want[i]))
		return
	}
}

// A stream comes through whole where the checksum gives the damage away, with as
// many wrong bits as packets were hit where it does not. What is sent again is
// not damaged by what was done to it before.
func TestStreamIsDamagedOrSentAgain(t *testing.T) {
	const size = 2 << 20
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "auto")
			for _, address := range []string{
				env.AddressB + ":7000", "[" + env.Address6B + "]:7001",
				// Receivers look at the checksums of these.
				env.AddressB + ":7002", "[" + env.Address6B + "]:7003",
			} {
				if address == env.AddressB+":7002" {
					f.network.A.NoChecksumOffload()
				}
				injection, errors := f.stream(address, size, damaged(5, checksum))
				counters := injection.Count()
				hits := int(counters.Injected)
				if hits == 0 || counters.Missed > 0 {
					t.Errorf("%s: the kernel counted %+v", address, counters)
				}
				want := map[v1.NetworkCorrupt_Checksum]damages{
					v1.NetworkCorrupt_RIGHT: {flipped: hits},
					v1.NetworkCorrupt_WRONG: {sumErrors: hits},
				}[checksum]
				if !errors.are(want) {
					t.Errorf("%s: %+v, want %+v", address, errors, want)
				}
			}
		})
	}
}

// damageWhole sends datagrams that are damaged, with a right checksum, and leave
// in one piece. It returns what came and what the seed says.
func (f *fixture) damageWhole() (came, want [][]byte) {
	f.t.Helper()
	const rounds = 8
	whole := sizes[:slices.Index(sizes, 1473)]
	pair := env.NewContentPair(f.t, f.network.A, f.network.B, f.target, f.neighbour, env.AddressB+":7000", rounds*len(whole), whole...)
	spec := damaged(30, v1.NetworkCorrupt_RIGHT)
	injection := f.inject(network.Corrupt(), spec)
	seed := newDamage(spec)
	want, _ = seed.of(pair.Sent(), v1.NetworkCorrupt_RIGHT)
	_, came = pair.Exchange()
	injection.End()
	f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
	return came, want
}

// damages are what the receiver of a stream saw.
type damages struct {
	flipped, sumErrors int
	// again counts the segments that were sent once more.
	again int
}

// are compares. The damage of a segment that was sent again for nothing, as by a
// machine that stood still, is not seen: the receiver has what it says already.
func (d damages) are(want damages) bool {
	unseen := want.flipped - d.flipped
	return d.sumErrors == want.sumErrors && 0 <= unseen && unseen <= d.again
}

// stream sends a stream of the target's under a fault, which ends with it. All of
// it has to come.
func (f *fixture) stream(address string, size int, spec *v1.Fault) (*env.Injected, damages) {
	f.t.Helper()
	return f.streamFrom(f.target, f.neighbour, address, size, spec)
}

func (f *fixture) streamFrom(sender, receiver fault.Cgroup, address string, size int, spec *v1.Fault) (*env.Injected, damages) {
	f.t.Helper()
	pair := env.NewStreamPair(f.t, f.network, sender, receiver, address, size)
	injection := f.inject(network.Corrupt(), spec)
	before, segments := countSumErrors(f.network.B), f.network.A.SNMP("Tcp RetransSegs")
	sent, came := pair.Exchange()
	injection.End()
	if sent.Errors > 0 || came.Error != "" {
		f.t.Fatalf("sending: %s; receiving: %s", sent.First, came.Error)
	}
	if came.Bytes != size {
		f.t.Errorf("%d bytes came, want %d", came.Bytes, size)
	}
	return injection, damages{
		flipped: came.Flipped, sumErrors: countSumErrors(f.network.B) - before,
		again: f.network.A.SNMP("Tcp RetransSegs") - segments,
	}
}

// A packet that is sent twice is damaged twice: otherwise the damage would be
// hidden from whoever takes the first that is whole.
func TestDamageOfWhatIsSentTwice(t *testing.T) {
	f := newFixture(t, network.Corrupt(), "auto")
	f.run = &fault.Commons{}
	doubling := twice(100, 0)
	doubling.Filter = damaged(0, 0).GetFilter()
	double := f.inject(network.Duplicate(), doubling)

	// Of a datagram in fragments each is sent twice, which makes it once.
	came, want := f.damageWhole()
	compare(t, "RIGHT", came, doubled(want))

	injection, errors := f.stream(env.AddressB+":7001", 2<<20, damaged(5, v1.NetworkCorrupt_WRONG))
	counters := injection.Count()
	if hits := int(counters.Injected); hits == 0 || counters.Missed > 0 || !errors.are(damages{sumErrors: 2 * hits}) {
		t.Errorf("%+v, of packets that were hit %+v", errors, counters)
	}
	double.End()
	if counters := double.Count(); counters.Missed > 0 {
		t.Errorf("of the packets that were to be sent twice the kernel counted %+v", counters)
	}
}

func doubled(list [][]byte) (all [][]byte) {
	for _, one := range list {
		all = append(all, one, one)
	}
	return all
}

// Senders that leave the checksum out, or hand over several datagrams at once.
func TestDamageOfUnusualDatagrams(t *testing.T) {
	const (
		count = 20
		size  = 1300
		part  = 500
	)
	f := newFixture(t, network.Corrupt(), "auto")
	hit := func(length int) (list [][]byte) {
		for range count {
			content := env.Content(0, size)
			bit := dice.Bit(seed, uint64(len(list)), length)
			content[bit/8] ^= 1 << (bit % 8)
			list = append(list, content)
		}
		return list
	}
	var damagedParts, wholeParts [][]byte
	for _, content := range hit(part) {
		damagedParts = append(damagedParts, content[:part], content[part:2*part], content[2*part:])
		content = env.Content(0, size)
		wholeParts = append(wholeParts, content[:part], content[part:2*part], content[2*part:])
	}
	for i, test := range []struct {
		name     string
		option   int
		value    int
		checksum v1.NetworkCorrupt_Checksum
		want     [][]byte
		errors   int
		missed   uint64
	}{
		{"no checksum, RIGHT", unix.SO_NO_CHECK, 1, v1.NetworkCorrupt_RIGHT, hit(size), 0, 0},
		{"no checksum, WRONG", unix.SO_NO_CHECK, 1, v1.NetworkCorrupt_WRONG, nil, count, 0},
		{"many in one, RIGHT", unix.UDP_SEGMENT, part, v1.NetworkCorrupt_RIGHT, damagedParts, 0, 0},
		{"many in one, WRONG", unix.UDP_SEGMENT, part, v1.NetworkCorrupt_WRONG, wholeParts, 0, count},
	} {
		address := fmt.Sprintf("%s:%d", env.AddressB, 7000+i)
		var ready string
		pair := env.ContentPair{
			Receiver: env.Start(t, f.neighbour, f.network.B, "content-receive", address),
			Sender:   env.Start(t, f.target, f.network.A, "unusual", fmt.Sprint(address, " ", test.option, " ", test.value, " ", count, " ", size)),
			Count:    3 * count,
		}
		pair.Receiver.Read(&ready)
		pair.Sender.Read(&ready)
		before := countSumErrors(f.network.B)
		injection := f.inject(network.Corrupt(), damaged(100, test.checksum))
		sent, came := pair.Exchange()
		injection.End()
		if sent.Errors > 0 {
			t.Errorf("%s: %s", test.name, sent.First)
		}
		compare(t, test.name, came, test.want)
		if errors := countSumErrors(f.network.B) - before; errors != test.errors {
			t.Errorf("%s: %d packets with a wrong checksum, want %d", test.name, errors, test.errors)
		}
		f.counted(injection, fault.Counters{Matched: count, Injected: count - test.missed, Missed: test.missed})
	}
}

// unusual sends datagrams with an option of its socket; its argument is made of
// the address, the option, its value, how many and how large they are.
func unusual(in io.Reader, out *json.Encoder, args []string) error {
	var address string
	var option, value, count, size int
	if _, err := fmt.Sscan(args[0], &address, &option, &value, &count, &size); err != nil {
		return err
	}
	connection, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	raw, err := connection.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	level := unix.SOL_SOCKET
	if option == unix.UDP_SEGMENT {
		level = unix.SOL_UDP
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil || set != nil {
		return errors.Join(err, set)
	}
	return env.Serve(in, out, func([]string) (any, error) {
		var result env.Sent
		for range count {
			if _, err := connection.Write(env.Content(0, size)); err != nil {
				result = env.Sent{Errors: result.Errors + 1, First: err.Error()}
			}
		}
		return result, nil
	})
}

// Pinned, it goes on without its process, and is taken over.
func TestPinnedDamageIsAdopted(t *testing.T) {
	const count = 20
	p := newPinned(t, network.Corrupt(), damaged(100, v1.NetworkCorrupt_WRONG), "cls_bpf")
	pair := env.NewContentPair(t, p.network.A, p.network.B, p.target, p.neighbour, env.AddressB+":7000", count, 100)
	p.begin(10 * time.Minute)
	p.process.Kill()
	before := countSumErrors(p.network.B)
	if _, came := pair.Exchange(); len(came) > 0 {
		t.Errorf("%d datagrams came", len(came))
	}
	if errors := countSumErrors(p.network.B) - before; errors != count {
		t.Errorf("%d packets with a wrong checksum, want %d", errors, count)
	}
	injection := p.mustAdopt()
	p.counted(injection, fault.Counters{Matched: count, Injected: count})
	if err := injection.Revert(t.Context()); err != nil {
		t.Error(err)
	}
	p.nothingLeft()
}

// The kernel of the other side does not answer a damaged ping.
func TestDamageOfPings(t *testing.T) {
	f := newFixture(t, network.Corrupt(), "auto")
	// Shows the fault in which namespace the target lives.
	env.StartProgram(t, f.target, f.network.A, "cat")
	spec := damaged(100, v1.NetworkCorrupt_WRONG)
	spec.Filter = &v1.Filter{Protocol: v1.Filter_ICMP}
	injection := f.inject(network.Corrupt(), spec)
	for address, counter := range map[string]string{env.AddressB: "Icmp InCsumErrors", env.Address6B: "Icmp6InCsumErrors"} {
		before := f.network.B.SNMP(counter)
		ping := env.StartProgram(t, f.target, f.network.A, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", address)
		// ping(8): 1 when there was no answer.
		if status := ping.Status(); status != 1 {
			t.Errorf("%s: ping ended with %d, want 1", address, status)
		}
		if errors := f.network.B.SNMP(counter) - before; errors != 3 {
			t.Errorf("%s: %d packets with a wrong checksum, want 3", address, errors)
		}
	}
	injection.End()
	f.counted(injection, fault.Counters{Matched: 6, Injected: 6})
}

// What is held is damaged, with its parts in their order.
func TestDamageOfWhatIsHeld(t *testing.T) {
	const delay = 20 * time.Millisecond
	f := newFixture(t, network.Latency(), "cls_bpf_fq")
	f.run = &fault.Commons{}
	latency := late(delay)
	latency.Filter = damaged(0, 0).GetFilter()
	held := f.inject(network.Latency(), latency)

	// What leaves in fragments could overtake others in fq.
	came, want := f.damageWhole()
	compare(t, "RIGHT", came, want)

	injection, errors := f.stream(env.AddressB+":7001", 2<<20, damaged(5, v1.NetworkCorrupt_WRONG))
	counters := injection.Count()
	if hits := int(counters.Injected); hits == 0 || counters.Missed > 0 || !errors.are(damages{sumErrors: hits}) {
		t.Errorf("%+v, of packets that were hit %+v", errors, counters)
	}
	held.End()
	if counters := held.Count(); counters.Missed > 0 || counters.Injected != counters.Matched {
		t.Errorf("of the packets that were to be held the kernel counted %+v", counters)
	}
}
