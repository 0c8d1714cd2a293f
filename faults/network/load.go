package network

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/tc"
	"faultline.dev/faultline/faults/qdisc"
)

// load loads the programs of the cgroup and, where there is one, that of the
// interfaces.
func (in *injection) load() error {
	in.own.mark = in.wire.run | in.number<<packetBits
	if err := in.loadCgroup(); err != nil {
		return err
	}
	if in.plan.hook == nil || in.plan.hook.program == "" {
		return nil
	}
	return in.loadHook()
}

func (in *injection) loadCgroup() error {
	spec, err := compiled(cgroupPrograms)
	if err != nil {
		return err
	}
	config := in.plan.config(in.wire.run, in.number)
	if err := spec.Variables[cgroupskb.ObjectsVarFlConfig].Set(config); err != nil {
		return fmt.Errorf("configuring programs: %w", err)
	}
	if in.plan.delay == nil {
		delete(spec.Maps, cgroupskb.ObjectsMapFlDelays)
	}
	collection, err := load(spec, in.wire.maps(), in.plan.egressProgram, in.plan.ingressProgram)
	if err != nil {
		return err
	}
	in.maps = collection.Maps
	return in.keep(collection)
}

func (in *injection) keep(collection *ebpf.Collection) error {
	var errs []error
	for name, program := range collection.Programs {
		in.programs[name] = program
		errs = append(errs, in.own.add(program))
	}
	return errors.Join(errs...)
}

// load loads the named programs of spec and the maps that go with them.
func load(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, wanted ...string) (*ebpf.Collection, error) {
	programs := map[string]*ebpf.ProgramSpec{}
	for _, name := range wanted {
		if name != "" {
			programs[name] = spec.Programs[name]
		}
	}
	spec.Programs = programs
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, fmt.Errorf("loading programs: %w", err)
	}
	return collection, nil
}

// fill writes the lists of the filter and of the delays.
func (in *injection) fill() error {
	p := in.plan
	if err := p.peers.Fill(in.maps, p.exempt()); err != nil {
		return err
	}
	if p.delay != nil {
		table := cgroupskb.ObjectsFlDelayTable{}
		copy(table.Entries[:], p.delay.Table.Value())
		if err := in.maps[cgroupskb.ObjectsMapFlDelays].Put(uint32(0), table); err != nil {
			return fmt.Errorf("writing the table of delays: %w", err)
		}
	}
	return nil
}

// config is what the programs of bpf/cgroupskb are told once and for all.
func (p *plan) config(run, number uint32) cgroupskb.ObjectsFlConfig {
	config := cgroupskb.ObjectsFlConfig{Run: run, Fault: number, Class: qdisc.Class}
	d := p.dice
	config.Dice.Seed = d.Seed
	config.Dice.Skip, config.Dice.Every, config.Dice.First = d.Skip, d.Every, d.First
	config.Dice.Probability = d.Probability
	config.Dice.Model = uint32(d.Model)
	config.Dice.Loss, config.Dice.Correlation = d.Loss, d.Correlation
	config.Dice.GoodToBad, config.Dice.BadToGood = d.GoodToBad, d.BadToGood
	config.Dice.LossGood, config.Dice.LossBad = d.LossGood, d.LossBad
	config.Dice.Ramp = d.Ramp
	config.Dice.PulseOn, config.Dice.PulsePeriod = d.PulseOn, d.PulsePeriod
	if delay := p.delay; delay != nil {
		config.Delay.Delay, config.Delay.Jitter = delay.Delay, delay.Jitter
		config.Delay.Correlation, config.Delay.Seed = delay.Correlation, delay.Seed
		config.Delay.Size, config.Delay.Shape = delay.Table.Size(), delay.Table.Shape()
	}
	if p.shape != nil {
		config.Shape.ByteTime, config.Shape.Burst = p.shape.byteTime(), uint64(p.shape.full())
		// A socket that sends waits itself.
		config.Shape.Longest = math.MaxUint64
	}
	for _, cgroup := range p.req.Cgroups {
		config.Levels |= 1 << cgroup.Level
	}
	config.Reorder.Gap = p.gap
	if p.wrong {
		config.Wrong = 1
	}
	filter := p.filter.Config(p.exempt())
	config.Filter.Flags, config.Filter.Protocol = filter.Flags, filter.Protocol
	if p.req.Observe {
		config.Observe = 1
	}
	return config
}

// loadHook loads the interfaces' program. It shares the lease with those of the
// cgroup, and the wire with all of the run.
func (in *injection) loadHook() error {
	spec, err := compiled(hookPrograms)
	if err != nil {
		return err
	}
	config := tc.ObjectsFlTcConfig{Run: in.wire.run, Fault: in.number}
	for _, cgroup := range in.plan.req.Cgroups {
		config.Levels |= 1 << cgroup.Level
	}
	if features.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkbSetTstamp) == nil {
		config.Clocks = 1
	}
	if err := spec.Variables[tc.ObjectsVarFlTcConfig].Set(config); err != nil {
		return fmt.Errorf("configuring programs: %w", err)
	}
	shared := in.wire.maps()
	shared[tc.ObjectsMapFlLease] = in.maps[cgroupskb.ObjectsMapFlLease]
	collection, err := load(spec, shared, in.plan.hook.program)
	if err != nil {
		return err
	}
	in.hookMaps = collection.Maps
	for name := range shared {
		_ = in.hookMaps[name].Close() // a second descriptor
		delete(in.hookMaps, name)
	}
	if err := in.keep(collection); err != nil {
		return err
	}
	for _, cgroup := range in.plan.req.Cgroups {
		if err := in.hookMaps[tc.ObjectsMapFlTargets].Put(cgroup.ID, uint8(1)); err != nil {
			return fmt.Errorf("writing target %s: %w", cgroup.Path, err)
		}
	}
	return nil
}
