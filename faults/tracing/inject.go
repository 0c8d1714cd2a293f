package tracing

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

// The maps of bpf/include.
const (
	leaseMap   = "fl_lease"
	statsMap   = "fl_stats"
	eventsMap  = "fl_events"
	targetsMap = "fl_targets"
	cgroupsMap = "fl_cgroups"
	tokenMap   = "fl_token"
)

// lease is struct fl_lease.
type lease struct{ Deadline, Start uint64 }

// order is struct fl_order.
type order struct{ Ordinal, Hits uint64 }

// stats is struct fl_stats.
type stats struct{ Matched, Chosen, Hit uint64 }

// injection is an active fault.
type injection struct {
	fault *Fault
	// maps has no programs; it is nil once everything is detached.
	maps     *ebpf.Collection
	programs []*ebpf.Program
	links    []link.Link
	events   *events.Sampler
	sleep    *wakeful
	start    uint64
	// final holds the counters once everything is detached.
	final *fault.Counters
}

func (in *injection) set(ctx context.Context, rec fault.Recorder) (err error) {
	if err := unlimit(); err != nil {
		return err
	}
	if in.sleep, err = in.fault.prepareSleep(ctx); err != nil {
		return err
	}
	if in.maps, err = in.fault.newMaps(in.sleep.shared()); err != nil {
		return err
	}
	for _, hook := range in.fault.Hooks {
		program, err := in.fault.load(in.maps, hook)
		if err != nil {
			return fmt.Errorf("loading a program for %s: %w", hook.Function, err)
		}
		in.programs = append(in.programs, program)
	}
	watch, err := newWatch(in.programs)
	if err != nil {
		return err
	}
	if err := rec.Watch(watch); err != nil {
		return err
	}
	watch.begin()
	if err := in.fill(); err != nil {
		return err
	}
	if in.fault.Keep != nil {
		if err := in.fault.Keep(ctx, in.maps.Maps); err != nil {
			return err
		}
	}
	if in.fault.Decode != nil {
		if in.events, err = events.Read(in.maps.Maps[eventsMap], in.fault.Decode); err != nil {
			return err
		}
	}
	for i, hook := range in.fault.Hooks {
		links, err := in.fault.attach(in.programs[i], hook)
		in.links = append(in.links, links...)
		if err != nil {
			return err
		}
		failpoint.Hit(failpoint.FunctionAttached)
	}
	return nil
}

// fill says which cgroups are the target, and puts the token down where there is
// one. A cgroup that is gone has no tasks.
func (in *injection) fill() error {
	if token := in.maps.Maps[tokenMap]; token != nil {
		if err := token.Put(nil, order{}); err != nil {
			return fmt.Errorf("putting the token down: %w", err)
		}
	}
	if in.maps.Maps[targetsMap] == nil {
		return nil // the hooks are the target's own
	}
	for i, cgroup := range in.fault.Cgroups {
		if err := in.maps.Maps[targetsMap].Put(cgroup.ID, uint8(1)); err != nil {
			return fmt.Errorf("writing target %s: %w", cgroup.Path, err)
		}
		if i >= cgroupsMax {
			continue
		}
		dir, err := cgroup.Open()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		err = in.maps.Maps[cgroupsMap].Put(uint32(i), uint32(dir.Fd()))
		_ = dir.Close()
		if err != nil {
			return fmt.Errorf("writing target %s: %w", cgroup.Path, err)
		}
	}
	return nil
}

// Start implements fault.Injection.
func (in *injection) Start(l fault.Lease) error {
	in.start = fault.BootTime()
	return in.Renew(l)
}

// Renew implements fault.Injection.
func (in *injection) Renew(l fault.Lease) error {
	err := in.maps.Maps[leaseMap].Put(uint32(0), lease{l.Deadline, in.start})
	if err != nil {
		err = fmt.Errorf("renewing lease: %w", err)
	}
	// Who sleeps is woken also if the programs could not be told.
	return errors.Join(err, in.sleep.renew(l))
}

// Refresh implements fault.Injection. The kernel knows who is in a cgroup.
func (in *injection) Refresh(ctx context.Context) error {
	if in.fault.Keep == nil {
		return nil
	}
	return in.fault.Keep(ctx, in.maps.Maps)
}

// Counters implements fault.Injection.
func (in *injection) Counters() (fault.Counters, error) {
	if in.final != nil {
		return *in.final, nil
	}
	var perCPU []stats
	if err := in.maps.Maps[statsMap].Lookup(uint32(0), &perCPU); err != nil {
		return fault.Counters{}, fmt.Errorf("reading counters: %w", err)
	}
	var sum stats
	for _, s := range perCPU {
		sum.Matched += s.Matched
		sum.Chosen += s.Chosen
		sum.Hit += s.Hit
	}
	if in.fault.Failure.Observe != 0 {
		sum.Hit = sum.Chosen
	}
	// The CPUs are read one after another: a call may be hit on one after it was
	// not yet chosen on another.
	missed := sum.Chosen - min(sum.Hit, sum.Chosen)
	for i, program := range in.programs {
		if !in.fault.Hooks[i].Alone {
			continue
		}
		skipped, err := skips(program)
		if err != nil {
			return fault.Counters{}, err
		}
		missed += skipped
	}
	return fault.Counters{Matched: sum.Matched, Injected: sum.Hit, Missed: missed}, nil
}

// skips counts the calls at which the kernel did not run a program, since it ran
// already on that CPU, for a task that was preempted in it. Before 5.12 the kernel
// does not count them.
func skips(program *ebpf.Program) (uint64, error) {
	s, err := program.Stats()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the counters of a program: %w", err)
	}
	return s.RecursionMisses, nil
}

// Events implements fault.Injection.
func (in *injection) Events() []*v1.Event {
	if in.events == nil {
		return nil
	}
	return in.events.Drain()
}

// Revert implements fault.Injection. Without a lease all programs are idle at one
// moment; detaching takes its time.
func (in *injection) Revert(context.Context) error {
	if in.maps == nil {
		in.sleep.close()
		return nil
	}
	var idle error
	if in.start != 0 {
		idle = in.Renew(fault.Lease{})
	}
	if err := errors.Join(idle, in.detach()); err != nil {
		return err
	}
	final, err := in.Counters()
	in.final = &final
	if in.events != nil {
		err = errors.Join(err, in.events.Close())
	}
	for _, program := range in.programs {
		err = errors.Join(err, program.Close())
	}
	in.sleep.close()
	in.maps.Close()
	in.maps, in.programs = nil, nil
	return err
}
