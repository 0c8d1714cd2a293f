package dice

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// delaySalt is DELAY_SALT of the programs.
const delaySalt = 0xd1b54a32d192ed03

// The streams of enum fl_delay_stream.
const (
	streamFactor Stream = iota
	streamAgain
)

// delayFraction and delayLow are DELAY_FRACTION_BITS and DELAY_LOW_BITS.
const (
	delayFraction = 28
	delayLow      = 22
)

// DelaySpec are the fields of a document's delay, be it of packets, calls or
// files. One that also has a GetTable may take its distribution from a file.
type DelaySpec interface {
	GetDelay() *durationpb.Duration
	GetJitter() *durationpb.Duration
	GetCorrelation() float64
	GetDistribution() v1.Distribution
}

// Delay says how long the events of a fault are delayed: delay + jitter * T,
// never below 0, where T is drawn from Table. It has the fields of struct
// fl_delay, times in nanoseconds.
type Delay struct {
	Delay, Jitter uint64
	// Correlation is how likely an event gets the delay of the one before it,
	// in parts of 2^32. The distribution stays what it is, and events that
	// are k apart are correlated by the k-th power, exactly. netem mixes the
	// random numbers of two packets instead, and takes only their remainder
	// by the table's size, so that next to nothing is left (get_crandom and
	// tabledist in net/sched/sch_netem.c).
	Correlation uint64
	// Seed may be that of the dice: the delays are independent of them.
	Seed uint64
	// Table is the zero value where there is no jitter.
	Table DelayTable
}

// NewDelay takes spec, which has been validated, and reads its table. The error
// is one of [ReadDelayTable].
func NewDelay(seed uint64, spec DelaySpec) (Delay, error) {
	d := Delay{
		Delay:       nanoseconds(spec.GetDelay().AsDuration()),
		Jitter:      nanoseconds(spec.GetJitter().AsDuration()),
		Correlation: percent(spec.GetCorrelation()),
		Seed:        seed,
	}
	if d.Jitter == 0 {
		return d, nil
	}
	var err error
	if from, ok := spec.(interface{ GetTable() string }); ok && from.GetTable() != "" {
		if d.Table, err = ReadDelayTable(from.GetTable()); err != nil {
			return Delay{}, fmt.Errorf("reading the table of delays: %w", err)
		}
		return d, nil
	}
	d.Table = NewDelayTable(spec.GetDistribution())
	return d, nil
}

// Longest is the longest delay that can be drawn.
func (d Delay) Longest() time.Duration { return time.Duration(d.of(d.Table.most())) }

// DelayState is what is remembered between two draws: struct fl_delay_state.
type DelayState struct {
	last  uint64
	drawn bool
}

// Draw is draw_delay of the programs: the delay of the event with that ordinal.
// It is called once for each event that is delayed, in their order, with a
// state that was zero at first. Without correlation it depends on n alone.
func (d Delay) Draw(n uint64, state *DelayState) time.Duration {
	if d.Jitter == 0 {
		return time.Duration(d.Delay)
	}
	seed := d.Seed ^ delaySalt
	if state.drawn && uint64(Random(seed, n, streamAgain)) < d.Correlation {
		return time.Duration(state.last)
	}
	state.last = d.of(d.Table.factor(Random(seed, n, streamFactor)))
	state.drawn = true
	return time.Duration(state.last)
}

// of is the delay for T in parts of 2^28.
func (d Delay) of(factor int64) uint64 {
	return uint64(max(int64(d.Delay)+offset(d.Jitter, factor), 0))
}

// offset is delay_offset of the programs: jitter * T, rounded. Jitter is below
// 2^53.
func offset(jitter uint64, factor int64) int64 {
	high, low := int64(jitter>>delayLow), int64(jitter&(1<<delayLow-1))
	const rest = delayFraction - delayLow
	return (high*factor + low*factor>>delayLow + 1<<(rest-1)) >> rest
}
