package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/faults/cgrouplink"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
)

// injection is an active fault of the family.
type injection struct {
	plan  *plan
	start uint64
	// maps are those of bpf/cgroupskb; bpf/tc shares some of them, and has
	// hookMaps of its own.
	maps, hookMaps map[string]*ebpf.Map
	// inboundMaps are those that only bpf/inbound has.
	inboundMaps map[string]*ebpf.Map
	programs    map[string]*ebpf.Program
	own         *own
	// wire is the run's, in which the fault has a number.
	wire   *wire
	number uint32
	links  []link.Link
	egress *egress
	// ingress is nil for a fault that leaves received packets alone, or has them
	// at the cgroup.
	ingress *ingress
	// unstamp is a program for the ingress of the target's cgroups ("": none).
	unstamp string
	// pins keep all of it when the process ends; nil for a fault that ends
	// with it.
	pins   *pin.Pins
	events *events.Sampler
	// final holds the counters once everything is detached.
	final *fault.Counters
}

// inject attaches everything. It idles until the lease is written.
func (p *plan) inject(ctx context.Context, rec fault.Recorder) (fault.Injection, error) {
	in := newInjection(p)
	if err := in.set(ctx, rec); err != nil {
		return nil, errors.Join(err, in.Revert(context.WithoutCancel(ctx)))
	}
	return in, nil
}

func newInjection(p *plan) *injection {
	return &injection{plan: p, programs: map[string]*ebpf.Program{}, own: &own{}}
}

func (in *injection) set(ctx context.Context, rec fault.Recorder) error {
	// Kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	var err error
	if in.wire, err = commonWire(rec, newWire); err != nil {
		return err
	}
	if in.number, err = in.wire.join(); err != nil {
		in.wire = nil
		return err
	}
	if err := in.load(); err != nil {
		return err
	}
	if rec.PinDir() != "" {
		if in.pins, err = pin.New(ctx, rec); err != nil {
			return err
		}
		if err := in.pinObjects(); err != nil {
			return err
		}
	}
	if in.events, err = events.Read(in.maps[cgroupskb.ObjectsMapFlEvents], decodeEvent); err != nil {
		return err
	}
	if err := in.fill(); err != nil {
		return err
	}
	if in.plan.hook != nil {
		if err := in.hook(ctx, rec); err != nil {
			return err
		}
	}
	if in.plan.received != nil {
		if err := in.steer(ctx, rec); err != nil {
			return err
		}
	}
	for _, cgroup := range in.plan.req.Cgroups {
		if err := rec.Watch(cgroupWatch{cgroup, in.own}); err != nil {
			return err
		}
		if err := in.attach(cgroup); err != nil {
			return err
		}
	}
	if in.pins != nil {
		return in.pins.Commit()
	}
	return nil
}

// Start implements fault.Injection.
func (in *injection) Start(lease fault.Lease) error {
	in.start = fault.BootTime()
	return in.Renew(lease)
}

// hook puts the interfaces' program where the target's packets leave. It idles
// until packets are marked.
func (in *injection) hook(ctx context.Context, rec fault.Recorder) error {
	in.egress = in.newEgress(rec)
	return in.egress.refresh(ctx, in.plan.peers)
}

func (in *injection) newEgress(rec fault.Recorder) *egress {
	queue := in.plan.queue
	if queue != nil {
		queue = &qdisc.Params{Delay: in.wire.holds(holder{in.number, false}, queue.Delay), Rate: queue.Rate}
	}
	return &egress{
		hook:      *in.plan.hook,
		program:   in.programs[cmp.Or(in.plan.hook.program, in.plan.egressProgram)],
		rec:       rec,
		own:       in.own,
		pins:      in.pins,
		cgroups:   in.plan.req.Cgroups,
		queue:     queue,
		emulation: in.plan.emulation,
		log:       in.plan.req.Log,
		hooked:    map[place]unhookFunc{},
		holds:     map[place]*qdisc.Hold{},
		held:      map[uint64]*netns.Namespace{},
	}
}

func (in *injection) attach(cgroup fault.Cgroup) error {
	for _, hook := range in.cgroupHooks() {
		l, err := cgrouplink.Attach(cgroup, in.programs[hook.program], hook.attach)
		if err != nil {
			return err
		}
		in.links = append(in.links, l)
		failpoint.Hit(failpoint.CgroupAttached)
		if in.pins != nil {
			if err := in.pins.Pin(hook.pin(cgroup), l); err != nil {
				return err
			}
		}
	}
	return nil
}

// cgroupHook is one of the packet hooks of the target's cgroups.
type cgroupHook struct {
	direction string
	program   string
	attach    ebpf.AttachType
}

// cgroupHooks are those of the plan, and one that some kernels need beside it.
func (in *injection) cgroupHooks() []cgroupHook {
	list := in.plan.cgroupHooks()
	if in.unstamp != "" {
		list = append(list, cgroupHook{"ingress", in.unstamp, ebpf.AttachCGroupInetIngress})
	}
	return list
}

// cgroupHooks are those that the plan uses.
func (p *plan) cgroupHooks() (list []cgroupHook) {
	if p.egressProgram != "" {
		list = append(list, cgroupHook{"egress", p.egressProgram, ebpf.AttachCGroupInetEgress})
	}
	if p.ingressProgram != "" {
		list = append(list, cgroupHook{"ingress", p.ingressProgram, ebpf.AttachCGroupInetIngress})
	}
	return list
}

// detach ends a link. Closing alone would do for one that is not pinned, but
// leaves the detaching to a worker of the kernel, some time later
// (bpf_link_put); this waits for it.
func detach(l link.Link) error {
	if err := pin.Detach(l); err != nil {
		return err
	}
	return l.Close()
}

// Renew implements fault.Injection.
func (in *injection) Renew(lease fault.Lease) error {
	value := cgroupskb.ObjectsFlLease{Deadline: lease.Deadline, Start: in.start}
	if err := in.maps[cgroupskb.ObjectsMapFlLease].Put(uint32(0), value); err != nil {
		return fmt.Errorf("renewing lease: %w", err)
	}
	return nil
}

// Refresh implements fault.Injection.
func (in *injection) Refresh(ctx context.Context) error {
	err := in.plan.peers.Refresh(ctx, in.maps[cgroupskb.ObjectsMapFlPeers])
	if in.egress != nil {
		err = errors.Join(err, in.egress.refresh(ctx, in.plan.peers))
	}
	if in.ingress != nil {
		err = errors.Join(err, in.ingress.refresh(ctx))
	}
	return err
}

// Counters implements fault.Injection.
func (in *injection) Counters() (fault.Counters, error) {
	if in.final != nil {
		return *in.final, nil
	}
	var perCPU []cgroupskb.ObjectsFlStats
	if err := in.maps[cgroupskb.ObjectsMapFlStats].Lookup(uint32(0), &perCPU); err != nil {
		return fault.Counters{}, fmt.Errorf("reading counters: %w", err)
	}
	var sum cgroupskb.ObjectsFlStats
	for _, s := range perCPU {
		sum.Matched += s.Matched
		sum.Chosen += s.Chosen
		sum.Hit += s.Hit
	}
	if in.plan.req.Observe {
		return fault.Counters{Matched: sum.Matched, Injected: sum.Chosen}, nil
	}
	hit := sum.Hit
	if !in.plan.hitAtCgroup {
		done, err := in.wire.count(in.number)
		if err != nil {
			return fault.Counters{}, err
		}
		hit += done
	}
	// The CPUs are read one after another: a packet may be hit on one after
	// it was not yet chosen on another.
	return fault.Counters{Matched: sum.Matched, Injected: hit, Missed: sum.Chosen - min(hit, sum.Chosen)}, nil
}

// Events implements fault.Injection.
func (in *injection) Events() []*v1.Event {
	if in.events == nil {
		return nil
	}
	return in.events.Drain()
}

// Revert implements fault.Injection. First nothing more is marked, then
// nothing more is lost, then the way out is cleared, and the pins go last.
func (in *injection) Revert(ctx context.Context) error {
	var errs []error
	var open []link.Link
	for _, l := range in.links {
		if err := detach(l); err != nil {
			errs = append(errs, fmt.Errorf("detaching from cgroup: %w", err))
			open = append(open, l)
		}
	}
	in.links = open
	if in.egress != nil {
		errs = append(errs, in.egress.revert(ctx))
	}
	if in.start != 0 && in.final == nil {
		errs = append(errs, in.Renew(fault.Lease{}))
	}
	// Without a lease nothing is chosen: no packet can be between two filters
	// when they are removed.
	if in.ingress != nil {
		errs = append(errs, in.ingress.revert(ctx))
	}
	if in.pins != nil {
		err := in.pins.Remove(ctx)
		if err == nil {
			in.pins = nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return in.close()
}

// close lets go of what is needed to try again.
func (in *injection) close() error {
	var errs []error
	if in.maps != nil && in.final == nil {
		final, err := in.Counters()
		in.final = &final
		errs = append(errs, err)
	}
	if in.events != nil {
		errs = append(errs, in.events.Close())
	}
	if in.egress != nil {
		errs = append(errs, in.egress.release())
	}
	if in.ingress != nil {
		errs = append(errs, in.ingress.release())
	}
	for _, program := range in.programs {
		errs = append(errs, program.Close())
	}
	for _, m := range in.maps {
		errs = append(errs, m.Close())
	}
	for _, m := range in.hookMaps {
		errs = append(errs, m.Close())
	}
	for _, m := range in.inboundMaps {
		errs = append(errs, m.Close())
	}
	in.programs, in.maps, in.hookMaps, in.inboundMaps = nil, nil, nil, nil
	if in.wire != nil {
		in.wire.leave(in.number)
		in.wire = nil
	}
	return errors.Join(errs...)
}
