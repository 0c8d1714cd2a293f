package tracing

import (
	"context"
	"fmt"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
)

// What bpf/include/delayed.h and delay.h have.
const (
	delayedVariable = "fl_delayed"
	delaysMap       = "fl_delays"
	// forever is FOREVER.
	forever = 1 << 63
)

// delayed is struct fl_delay.
type delayed struct {
	Delay, Jitter, Correlation, Seed uint64
	Size, Shape                      uint32
}

// Delay is how long the calls of a fault wait.
type Delay struct {
	text  string
	delay dice.Delay
}

// NewDelay takes what was validated. The error says what of it is not built.
func NewDelay(seed uint64, spec dice.DelaySpec) (Delay, error) {
	if units.IsForever(spec.GetDelay()) {
		return Delay{"wait until the fault ends", dice.Delay{Delay: forever}}, nil
	}
	if spec.GetCorrelation() != 0 {
		return Delay{}, fmt.Errorf("correlation of the delays of calls is %w; leave it out", fault.ErrNotBuilt)
	}
	delay, err := dice.NewDelay(seed, spec)
	text := "wait " + units.FormatDuration(spec.GetDelay().AsDuration())
	if jitter := spec.GetJitter().AsDuration(); jitter != 0 {
		text += " ± " + units.FormatDuration(jitter)
	}
	return Delay{text, delay}, err
}

// Describe says it of calls that wait by a mechanism: "wait 200ms ± 50ms".
func (d Delay) Describe(mechanism string) string {
	if mechanism == MechanismTaskWork {
		return d.text + " before they return"
	}
	return d.text
}

// Configure tells the programs of a fault, the other maps of which are kept by keep.
func (d Delay) Configure(f *Fault, keep func(context.Context, map[string]*ebpf.Map) error) error {
	config := delayed{
		Delay: d.delay.Delay, Jitter: d.delay.Jitter, Correlation: d.delay.Correlation, Seed: d.delay.Seed,
		Size: d.delay.Table.Size(), Shape: d.delay.Table.Shape(),
	}
	if err := f.Spec.Variables[delayedVariable].Set(config); err != nil {
		return fmt.Errorf("configuring programs: %w", err)
	}
	written := false
	f.Keep = func(ctx context.Context, maps map[string]*ebpf.Map) error {
		if !written {
			if err := maps[delaysMap].Put(uint32(0), d.delay.Table.Value()); err != nil {
				return fmt.Errorf("writing the table of delays: %w", err)
			}
			written = true
		}
		return keep(ctx, maps)
	}
	return nil
}
