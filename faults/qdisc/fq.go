package qdisc

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

// Attributes of fq (enum of TCA_FQ_* in linux/pkt_sched.h).
const (
	fqLimit          = 1
	fqFlowLimit      = 2
	fqQuantum        = 3
	fqInitialQuantum = 4
	fqRateEnable     = 5
	fqBucketsLog     = 8
	fqOrphanMask     = 10
	fqHorizon        = 14
	fqHorizonDrop    = 15
)

// DefaultRate is the Rate of Params that don't say: 2.4 Gbit/s in packets of
// 1500 bytes.
const DefaultRate = 200_000

// Bounds of the queue. It takes memory only as it fills, but then there is no
// sender to slow down: an orphaned clone has left the socket's buffer, so that
// these bounds alone stand between a fast sender and the machine's memory.
const (
	flowLimitMin = 10_000
	flowLimitMax = 250_000
	// flowsFull is how many flows can be at their limit before the packets of
	// all others are lost with theirs.
	flowsFull = 4
)

const (
	kernelHorizon = 10 * time.Second // the kernel's default
	// longestHorizon is what TCA_FQ_HORIZON can say in microseconds.
	longestHorizon = math.MaxUint32 * time.Microsecond
)

// Params are what a fault needs of fq.
type Params struct {
	// Delay is the longest that one packet waits, at most 35 minutes.
	Delay time.Duration
	// Rate is how many packets of one flow are to be delayed a second without a
	// loss; 0 stands for DefaultRate.
	Rate uint64
}

// Limits are what an fq can hold.
type Limits struct {
	// Packets in all of it, and of one flow.
	Packets, FlowPackets uint32
	// Horizon is the longest that a packet waits: beyond it the packet is lost
	// (horizon_drop, which is the kernel's default) or waits that long only.
	// 0 stands for no such limit.
	Horizon time.Duration
}

// Allows tells whether a packet may wait that long.
func (l Limits) Allows(delay time.Duration) bool { return l.Horizon == 0 || delay < l.Horizon }

// limits are what Params need: twice what waits on the average, since senders
// come in bursts.
func (p Params) limits() (Limits, error) {
	rate := p.Rate
	if rate == 0 {
		rate = DefaultRate
	}
	horizon := max(kernelHorizon, 2*p.Delay+time.Second)
	if p.Delay < 0 || p.Delay > longestHorizon || horizon > longestHorizon {
		return Limits{}, fmt.Errorf("a delay of %s, as fq holds no packet longer than %s, is %w", p.Delay, longestHorizon/2, fault.ErrUnavailable)
	}
	flow := uint32(min(max(2*p.Delay.Seconds()*float64(rate), flowLimitMin), flowLimitMax))
	return Limits{Packets: flowsFull * flow, FlowPackets: flow, Horizon: horizon}, nil
}

// atLeast is the greater of both in each.
func (l Limits) atLeast(o Limits) Limits {
	out := Limits{Packets: max(l.Packets, o.Packets), FlowPackets: max(l.FlowPackets, o.FlowPackets), Horizon: max(l.Horizon, o.Horizon)}
	if l.Horizon == 0 || o.Horizon == 0 {
		out.Horizon = 0
	}
	return out
}

// smaller is what several fqs, one for each queue, allow in any case.
func (l Limits) smaller(o Limits) Limits {
	out := Limits{Packets: min(l.Packets, o.Packets), FlowPackets: min(l.FlowPackets, o.FlowPackets), Horizon: min(l.Horizon, o.Horizon)}
	if l.Horizon == 0 || o.Horizon == 0 {
		out.Horizon = max(l.Horizon, o.Horizon)
	}
	return out
}

// options are those of an fq of ours. The rest is the kernel's default.
//
//   - No pacing. With it fq slows down every TCP connection of the interface to
//     the rate that it announces, and takes over the pacing of those that pace
//     themselves (BBR), which stays off when fq is gone (sk_pacing_status in
//     fq_classify). The stamps that faults write are obeyed all the same.
//   - A packet whose stamp is beyond the horizon waits that long, and is not
//     lost: a fault that delays must not become one that loses.
//   - Packets without a socket, as orphaned clones are, are told apart by their
//     whole hash: by default those of many connections share one of 1024
//     flows, and its limit. More buckets keep the search for a flow short.
func (l Limits) options() []byte {
	u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	var b []byte
	for _, a := range []attr{
		{fqLimit, u32(l.Packets)},
		{fqFlowLimit, u32(l.FlowPackets)},
		{fqRateEnable, u32(0)},
		{fqBucketsLog, u32(14)},
		{fqOrphanMask, u32(math.MaxUint32)},
		{fqHorizon, u32(uint32(l.Horizon / time.Microsecond))},
		{fqHorizonDrop, []byte{0}},
	} {
		b = append(b, attribute(a.kind, a.value)...)
	}
	return b
}

// limitsOf reads the options of a dumped fq.
func limitsOf(options []byte) (l Limits) {
	for _, a := range parse(options) {
		n, ok := number(a.value)
		if !ok {
			continue
		}
		switch a.kind {
		case fqLimit:
			l.Packets = n
		case fqFlowLimit:
			l.FlowPackets = n
		case fqHorizon:
			l.Horizon = time.Duration(n) * time.Microsecond
		}
	}
	return l
}

// Add makes fq at the root of an interface that the caller has made and will
// remove, such as an ifb: nothing is recorded and nothing is put back. The
// handle is 1:, as the interface is nobody else's.
func Add(ns *netns.Namespace, index int, params Params) error {
	limits, err := params.limits()
	if err != nil {
		return err
	}
	q := Qdisc{Kind: kindFQ, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT, Options: limits.options()}
	if err := put(ns, index, q, onlyDefault); err != nil {
		return fmt.Errorf("adding fq to interface %d in %s: %w", index, ns, missing(kindFQ, err))
	}
	return nil
}
