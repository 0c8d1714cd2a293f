//go:build linux && privileged

package network_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// However many packets of a flow wait, none is lost: fq's own limits are 100 of
// a flow and 10,000 in all. They are sent at 10,000 a second, which an emulated
// machine need not reach: it is the number of packets that wait that fills a
// queue. Where that is no more than all of fq, it is far more than a flow.
func TestNothingIsLostToTheQueue(t *testing.T) {
	const (
		count    = 12_000
		interval = 100 * time.Microsecond
		delay    = 8 * time.Second
		ofFlow   = 100
	)
	f := newFixture(t, network.Latency(), "cls_bpf_fq")
	pair := env.NewDelayPair(t, f.network, f.target, f.neighbour, env.AddressB+":7000", count, interval)
	injection := f.inject(network.Latency(), late(delay))
	sent, arrivals := pair.Exchange(delay)
	injection.End()
	if sent.Errors > 0 || len(arrivals) != count {
		t.Errorf("%d came of %d, %d errors: %s", len(arrivals), count, sent.Errors, sent.First)
	}
	f.counted(injection, fault.Counters{Matched: count, Injected: count})
	waited := mostAtOnce(arrivals, delay)
	t.Logf("%d waited at once; the slowest took %s", waited, env.Quantile(env.Took(arrivals), 1))
	if waited <= 10*ofFlow {
		t.Errorf("only %d packets waited at once: this shows nothing", waited)
	}
}

// mostAtOnce is how many of the packets waited at the same time, as each did
// for the delay after it was sent.
func mostAtOnce(arrivals []env.Arrival, delay time.Duration) (most int) {
	var sent []time.Duration
	for _, a := range arrivals {
		sent = append(sent, a.At-a.Took)
	}
	slices.Sort(sent)
	first := 0
	for i, at := range sent {
		for sent[first]+delay <= at {
			first++
		}
		most = max(most, i+1-first)
	}
	return most
}

// A packet waits once for all faults that delay it: the queue has to hold it that
// long.
func TestQueueHoldsForAllDelays(t *testing.T) {
	const (
		faults = 3
		delay  = 6 * time.Second
	)
	f := newFixture(t, network.Latency(), "cls_bpf_fq")
	// Shows the faults in which namespace the target lives.
	env.StartProgram(t, f.target, f.network.A, "cat")
	f.run = &fault.Commons{}
	for range faults {
		f.inject(network.Latency(), late(delay))
	}
	queue := f.network.A.Run("tc", "-d", "qdisc", "show", "dev", env.Veth)
	_, text, _ := strings.Cut(queue, " horizon ")
	text, _, _ = strings.Cut(text, " ")
	if horizon, err := time.ParseDuration(text); err != nil || horizon <= faults*delay {
		t.Errorf("packets are to wait %s in %s: %v", faults*delay, queue, err)
	}
}
