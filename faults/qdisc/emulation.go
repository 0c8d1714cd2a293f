package qdisc

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// Emulation is a qdisc that does to all of its packets what a fault wants, where
// there is no fq: Netem or TokenBucket.
type Emulation interface {
	kind() string
	// options are the kernel's, for an interface whose longest packets have that
	// many bytes.
	options(longest uint32) ([]byte, error)
	// warning says what is not as it was asked for at such an interface; "" for
	// nothing.
	warning(longest uint32) string
}

// Netem is what the qdisc netem is to do (tc-netem(8)).
type Netem struct {
	Delay, Jitter time.Duration
	// Correlation of the delays, in parts of 2^32. By the way netem uses it,
	// little comes of it (tabledist in net/sched/sch_netem.c).
	Correlation uint32
	// Table is the distribution of the delays in parts of 8192 of the jitter; nil
	// for an even one.
	Table []int16
	// Duplicate sends every packet twice.
	Duplicate bool
	// Longest is the longest that one packet waits.
	Longest time.Duration
}

// Attributes of netem (enum of TCA_NETEM_* in linux/pkt_sched.h).
const (
	netemCorrelation = 1
	netemTable       = 2
	netemLatency64   = 10
	netemJitter64    = 11
)

func (Netem) kind() string { return "netem" }

func (Netem) warning(uint32) string { return "" }

func (n Netem) options(uint32) ([]byte, error) {
	limits, err := Params{Delay: n.Longest}.limits()
	if err != nil {
		return nil, err
	}
	// struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter. The
	// times are in the attributes.
	var duplicate uint32
	if n.Duplicate {
		duplicate = math.MaxUint32
	}
	options := words(0, limits.FlowPackets, 0, 0, duplicate, 0)
	add := func(kind uint16, value []byte) { options = append(options, attribute(kind, value)...) }
	add(netemLatency64, binary.NativeEndian.AppendUint64(nil, uint64(n.Delay)))
	add(netemJitter64, binary.NativeEndian.AppendUint64(nil, uint64(n.Jitter)))
	add(netemCorrelation, words(n.Correlation, 0, 0))
	if len(n.Table) > 0 {
		var table []byte
		for _, entry := range n.Table {
			table = binary.NativeEndian.AppendUint16(table, uint16(entry))
		}
		add(netemTable, table)
	}
	return options, nil
}

// TokenBucket is what the qdisc tbf is to do (tc-tbf(8)).
type TokenBucket struct {
	// Rate in bytes per second.
	Rate uint64
	// Burst in bytes. It is raised to the longest packet of an interface: tbf
	// loses all that are longer.
	Burst uint32
	// Longest is how long packets can wait at the rate; more are lost.
	Longest time.Duration
}

// Attributes of tbf (enum of TCA_TBF_* in linux/pkt_sched.h).
const (
	tbfParameters = 1
	tbfRate64     = 4
	tbfBurst      = 6
)

func (TokenBucket) kind() string { return "tbf" }

func (t TokenBucket) warning(longest uint32) string {
	if longest <= t.Burst {
		return ""
	}
	return fmt.Sprintf("the burst is %d bytes, as its longest packets, and not %d: tbf would lose those that are longer", longest, t.Burst)
}

func (t TokenBucket) options(longest uint32) ([]byte, error) {
	const ethernet = 1 // TC_LINKLAYER_ETHERNET
	burst := max(t.Burst, longest)
	limit := uint32(min(max(float64(t.Rate)*t.Longest.Seconds(), float64(burst)), math.MaxInt32))
	// struct tc_tbf_qopt: two of struct tc_ratespec, then limit, buffer, mtu. A
	// rate of more than 32 bits is in its attribute.
	rate := binary.NativeEndian.AppendUint32([]byte{0, ethernet, 0, 0, 0, 0, 0, 0}, uint32(min(t.Rate, math.MaxUint32)))
	parameters := slices.Concat(rate, make([]byte, len(rate)), words(limit, 0, 0))
	options := attribute(tbfParameters, parameters)
	options = append(options, attribute(tbfBurst, words(burst))...)
	if t.Rate > math.MaxUint32 {
		options = append(options, attribute(tbfRate64, binary.NativeEndian.AppendUint64(nil, t.Rate))...)
	}
	return options, nil
}

func words(list ...uint32) (b []byte) {
	for _, n := range list {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}
