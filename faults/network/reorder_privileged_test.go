//go:build linux && privileged

package network_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// falling lets some of the datagrams to port 7000 fall back.
func falling(mechanism string, percent float64, gap uint32) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Filter:    &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
		Fault:     &v1.Fault_NetworkReorder{NetworkReorder: &v1.NetworkReorder{Percent: percent, Gap: gap}},
	}
}

// Those packets fall back that the seed says, about as far as was asked for, and
// those that the kernel counts are those that the receiver sees late. Nothing is
// lost, and nobody else waits: not the packets that pass, nor a neighbour's.
func TestReorderIsThatOfTheSeed(t *testing.T) {
	const (
		count   = 400
		percent = 20
		gap     = 3
		pace    = 5 * time.Millisecond
	)
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		for _, test := range []struct {
			name, to string
			pair     func(testing.TB, env.Network, fault.Cgroup, fault.Cgroup, string, int, time.Duration) env.DelayPair
		}{
			{"ipv4", env.AddressB, env.NewDelayPair},
			// fq tells the packets of such a socket apart by their hash, like
			// those that are held and have none.
			{"ipv6, not connected", "[" + env.Address6B + "]", env.NewLooseDelayPair},
		} {
			t.Run(mechanism+"/"+test.name, func(t *testing.T) {
				f := newFixture(t, network.Reorder(), mechanism)
				pair := test.pair(t, f.network, f.target, f.neighbour, test.to+":7000", count, pace)
				other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, test.to+":7001", count, pace)
				before := f.network.A.Run("tc", "-d", "qdisc", "show")
				spec := falling(mechanism, percent, gap)
				injection := f.inject(network.Reorder(), spec)
				other.Begin(0)
				sent, arrivals := pair.Exchange(0)
				_, theirs := other.End()
				injection.End()
				env.Unchanged(t, before, f.network.A.Run("tc", "-d", "qdisc", "show"))
				if sent.Errors > 0 {
					t.Errorf("%d of the sends failed: %s", sent.Errors, sent.First)
				}
				if got := numbers(theirs); !slices.IsSorted(got) || len(got) != count {
					t.Errorf("%d packets of the neighbour came, in order: %v", len(got), slices.IsSorted(got))
				}
				r := reordered{t, arrivals, fallen(spec, nil, count)}
				r.once(count)
				r.agrees(injection, count)
				if n := len(r.chosen); n < count*percent/100*7/10 || n > count*percent/100*13/10 {
					t.Errorf("%d of %d packets fell back, wanted %d %%", n, count, percent)
				}
				r.far(gap)
				r.others()
			})
		}
	}
}

// What the target receives falls back in the same way, and what others receive at
// the same interface does not.
func TestReceivedReorderIsThatOfTheSeed(t *testing.T) {
	const (
		count = 400
		gap   = 3
		pace  = 5 * time.Millisecond
	)
	f := newFixture(t, network.Reorder(), "ifb")
	pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, pace)
	other := env.NewDelayPair(t, f.network, f.neighbour, f.neighbour, env.AddressB+":7001", count, pace)
	before := f.tcState()
	spec := receiving(falling("", 20, gap))
	injection := f.inject(network.Reorder(), spec)
	other.Begin(0)
	_, arrivals := pair.Exchange(0)
	_, theirs := other.End()
	if got := numbers(theirs); !slices.IsSorted(got) || len(got) != count {
		t.Errorf("%d packets of the neighbour came, in order: %v", len(got), slices.IsSorted(got))
	}
	r := reordered{t, arrivals, fallen(spec, nil, count)}
	r.once(count)
	r.agrees(injection, count)
	r.far(gap)
	r.others()
	injection.End()
	f.unchanged(before)
}

// Times of received packets add up, and of what comes twice both fall back.
func TestReceivedReorderWithLatencyAndDuplicates(t *testing.T) {
	const (
		count = 300
		delay = 40 * time.Millisecond
	)
	f := newFixture(t, network.Reorder(), "ifb")
	pair := env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7000", count, 3*time.Millisecond)
	before := f.tcState()
	f.run = &fault.Commons{}
	spec := receiving(falling("", 20, 3))
	doubled := receiving(twice(30, 0))
	held := f.inject(network.Latency(), receiving(late(delay)))
	double := f.inject(network.Duplicate(), doubled)
	injection := f.inject(network.Reorder(), spec)
	_, arrivals := pair.Exchange(delay)
	if least := env.Quantile(env.Took(arrivals), 0); least < delay {
		t.Errorf("a packet came after %s", least)
	}
	twins := duplicated(doubled, count)
	if got := doubles(t, arrivals, count); !slices.Equal(got, twins) {
		t.Errorf("%d packets came twice, the seed says %d others", len(got), len(twins))
	}
	// The second of two that are the same waits in another fault's queue, which
	// may wake up earlier or later.
	chosen := fallen(spec, nil, count)
	reordered{t, slices.DeleteFunc(slices.Clone(arrivals), func(a env.Arrival) bool {
		return slices.Contains(twins, a.Number)
	}), chosen}.onlyChosen()
	// Of two that are the same the first one tells.
	seen := map[int]bool{}
	first := slices.DeleteFunc(arrivals, func(a env.Arrival) bool {
		was := seen[a.Number]
		seen[a.Number] = true
		return was
	})
	reordered{t, first, chosen}.counted(injection, count)
	f.counted(held, fault.Counters{Matched: count, Injected: count})
	f.counted(double, fault.Counters{Matched: count, Injected: uint64(len(twins))})
	injection.End()
	double.End()
	held.End()
	f.unchanged(before)
}

// What the target sends and what it receives are two rows: the packets of one
// say nothing of how long those of the other wait, and pass none of them.
func TestReorderOfBothDirections(t *testing.T) {
	const gap = 3
	f := newFixture(t, network.Reorder(), "ifb")
	f.needs(network.Reorder(), "auto")
	pairs := map[string]env.DelayPair{
		"sent":     env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", 150, 10*time.Millisecond),
		"received": env.NewDelayPair(t, f.network, f.neighbour, f.target, env.AddressB+":7001", 750, 2*time.Millisecond),
	}
	before := f.tcState()
	spec := falling("", 20, gap)
	spec.Filter = &v1.Filter{Direction: v1.Filter_BOTH, Protocol: v1.Filter_UDP}
	injection := f.inject(network.Reorder(), spec)
	for _, pair := range pairs {
		pair.Begin(0)
	}
	var matched, passed int
	for name, pair := range pairs {
		_, arrivals := pair.End()
		t.Log(name)
		r := reordered{t: t, arrivals: arrivals}
		r.once(pair.Count)
		r.far(gap)
		matched += pair.Count
		passed += len(r.passed())
	}
	c := injection.Count()
	t.Logf("counted %+v; %d were passed", c, passed)
	if difference := int(c.Injected) - passed; max(difference, -difference) > passed/5 {
		t.Errorf("%d packets were passed, the kernel counted %d", passed, c.Injected)
	}
	if c.Matched != uint64(matched) {
		t.Errorf("counted %+v of %d packets", c, matched)
	}
	injection.End()
	f.unchanged(before)
}

// What is lost neither falls back nor is passed by others, whichever of the two
// comes first in the run; what both leave is held.
func TestReorderLossAndLatencyShareTheirPackets(t *testing.T) {
	const (
		count = 600
		delay = 30 * time.Millisecond
	)
	for _, lossFirst := range []bool{true, false} {
		t.Run(map[bool]string{true: "loss first", false: "loss last"}[lossFirst], func(t *testing.T) {
			f := newFixture(t, network.Reorder(), "cls_bpf_fq")
			pair := env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, 2*time.Millisecond)
			loss, latency, spec := lossOfUDP(), late(delay), falling("cls_bpf_fq", 20, 4)
			latency.Mechanism = spec.Mechanism
			f.run = &fault.Commons{}
			inject := map[string]func() *env.Injected{
				"loss":    func() *env.Injected { return f.inject(network.Loss(), loss) },
				"reorder": func() *env.Injected { return f.inject(network.Reorder(), spec) },
			}
			lost, gone, matched := predicted(loss, count), []int(nil), uint64(count)
			order := []string{"reorder", "loss"}
			if lossFirst {
				order, gone, matched = []string{"loss", "reorder"}, lost, uint64(count-len(lost))
			}
			injections := map[string]*env.Injected{}
			for _, name := range order {
				injections[name] = inject[name]()
			}
			held := f.inject(network.Latency(), latency)
			sent, arrivals := pair.Exchange(delay)
			held.End()
			injections["loss"].End()
			injections["reorder"].End()
			if sent.Errors > 0 {
				t.Errorf("%d of the sends failed: %s", sent.Errors, sent.First)
			}
			f.counted(injections["loss"], fault.Counters{Matched: count, Injected: uint64(len(lost))})
			if len(arrivals) != count-len(lost) {
				t.Errorf("%d packets came of %d, of which %d were to be lost", len(arrivals), count, len(lost))
			}
			if least := env.Quantile(env.Took(arrivals), 0); least < delay {
				t.Errorf("a packet came after %s", least)
			}
			r := reordered{t, arrivals, fallen(spec, gone, count)}
			if lossFirst {
				r.agrees(injections["reorder"], matched)
				return
			}
			// Passed by what was lost later, and perhaps by nothing else: the
			// receiver can't know. What was lost itself never counts.
			counters := injections["reorder"].Count()
			without := 0
			for _, n := range r.chosen {
				if slices.Contains(lost, n) {
					without++
				}
			}
			if counters.Matched != matched || counters.Injected+counters.Missed != uint64(len(r.chosen)) || counters.Missed < uint64(without) {
				t.Errorf("counted %+v; %d were chosen, and %d of those lost", counters, len(r.chosen), without)
			}
			if least := len(r.chosen) - without; counters.Injected < uint64(least*8/10) {
				t.Errorf("counted %+v; %d were chosen and not lost", counters, least)
			}
		})
	}
}

// Pinned, packets go on to fall back without the process, and the next one goes
// on to count those that were passed.
func TestPinnedReorderIsAdopted(t *testing.T) {
	const count = 200
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			spec := falling(mechanism, 20, 3)
			p := newPinned(t, network.Reorder(), spec, mechanism)
			pair := env.NewDelayPair(t, p.network, p.target, p.neighbour, env.AddressB+":7000", count, 5*time.Millisecond)
			p.begin(10 * time.Minute)
			p.process.Kill()
			_, arrivals := pair.Exchange(0)
			injection := p.mustAdopt()
			r := reordered{t, arrivals, fallen(spec, nil, count)}
			r.once(count)
			r.agrees(injection, count)
			if err := injection.Revert(t.Context()); err != nil {
				t.Error(err)
			}
			p.nothingLeft()
		})
	}
}

// A stream comes through whole, in its order. On a short way TCP has hardly more
// on its way than one large segment, which nothing can pass.
func TestReorderLeavesTheStreamWhole(t *testing.T) {
	const size = "4194304"
	for _, mechanism := range []string{"tcx_fq", "cls_bpf_fq"} {
		t.Run(mechanism, func(t *testing.T) {
			f := newFixture(t, network.Reorder(), mechanism)
			var listener net.Listener
			f.network.B.Do(func() (err error) {
				listener, err = net.Listen("tcp", env.AddressB+":7000")
				return err
			})
			t.Cleanup(func() { _ = listener.Close() })
			var ready, want string
			source := env.Start(t, f.target, f.network.A, "pour", env.AddressB+":7000", size)
			source.Read(&ready)
			spec := falling(mechanism, 20, 2)
			spec.Filter.Protocol = v1.Filter_TCP
			latency := late(20 * time.Millisecond)
			latency.Mechanism, latency.Filter = mechanism, spec.Filter
			f.run = &fault.Commons{}
			f.inject(network.Latency(), latency)
			injection := f.inject(network.Reorder(), spec)
			source.Tell("go")
			connection, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = connection.Close() }()
			if err := connection.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			if _, err := io.Copy(sum, connection); err != nil {
				t.Error(err)
			}
			source.Read(&want)
			injection.End()
			if got := hex.EncodeToString(sum.Sum(nil)); got != want {
				t.Errorf("other bytes came than were sent")
			}
			counters := injection.Count()
			t.Logf("counted %+v", counters)
			if counters.Injected == 0 {
				t.Error("nothing was reordered")
			}
		})
	}
}

// pour sends args[1] random bytes to args[0] and prints what SHA-256 makes of
// them, when it is told to.
func pour(in io.Reader, out *json.Encoder, args []string) error {
	if err := out.Encode("ready"); err != nil {
		return err
	}
	if _, err := fmt.Fscanln(in, new(string)); err != nil {
		return err
	}
	connection, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	size, err := json.Number(args[1]).Int64()
	if err != nil {
		return err
	}
	sum := sha256.New()
	bytes := rand.NewChaCha8([32]byte{})
	if _, err := io.CopyN(io.MultiWriter(connection, sum), bytes, size); err != nil {
		return err
	}
	if err := connection.Close(); err != nil {
		return err
	}
	return out.Encode(hex.EncodeToString(sum.Sum(nil)))
}

// fallen are the numbers that the seed chooses of those that are not gone.
func fallen(spec *v1.Fault, gone []int, count int) (list []int) {
	config := dice.New(seed, spec)
	config.Share(spec.GetNetworkReorder())
	sequence := dice.NewSequence(config)
	for i := range count {
		if _, is := slices.BinarySearch(gone, i); !is && sequence.Next() {
			list = append(list, i)
		}
	}
	return list
}
