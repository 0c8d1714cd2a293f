package network

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/tc"
	"faultline.dev/faultline/faults/fault"
)

// injection is an active fault of the family.
type injection struct {
	plan  *plan
	start uint64
	// maps are those of bpf/cgroupskb; bpf/tc shares some of them.
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	links    []link.Link
	egress   *egress
	events   *sampler
	// final holds the counters once everything is detached.
	final *fault.Counters
}

// inject attaches everything. It idles until the lease is written.
func (p *plan) inject(ctx context.Context, rec fault.Recorder) (fault.Injection, error) {
	in := &injection{plan: p, programs: map[string]*ebpf.Program{}}
	if err := in.set(ctx, rec); err != nil {
		return nil, errors.Join(err, in.Revert(context.WithoutCancel(ctx)))
	}
	return in, nil
}

func (in *injection) set(ctx context.Context, rec fault.Recorder) error {
	// Kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	mark, err := newMark()
	if err != nil {
		return err
	}
	if err := in.load(mark); err != nil {
		return err
	}
	if in.events, err = newSampler(in.maps[cgroupskb.ObjectsMapFlEvents]); err != nil {
		return err
	}
	if err := in.fill(); err != nil {
		return err
	}
	if in.plan.hook != nil {
		if err := in.hook(ctx, mark, rec); err != nil {
			return err
		}
	}
	for _, cgroup := range in.plan.req.Cgroups {
		if err := rec.Watch(cgroupWatch{cgroup}); err != nil {
			return err
		}
		if err := in.attach(cgroup); err != nil {
			return err
		}
	}
	return nil
}

// Start implements fault.Injection.
func (in *injection) Start(lease fault.Lease) error {
	in.start = fault.BootTime()
	return in.Renew(lease)
}

// newMark draws the mark of this fault's lost packets.
func newMark() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("drawing a mark: %w", err)
	}
	return binary.NativeEndian.Uint32(b[:]) | 1, nil
}

func (in *injection) load(mark uint32) error {
	spec, err := cgroupskb.LoadObjects()
	if err != nil {
		return err
	}
	config := cgroupskb.ObjectsFlConfig{Mark: mark}
	d := in.plan.dice
	config.Dice.Seed = d.Seed
	config.Dice.Skip, config.Dice.Every, config.Dice.First = d.Skip, d.Every, d.First
	config.Dice.Probability = d.Probability
	config.Dice.Model = uint32(d.Model)
	config.Dice.Loss, config.Dice.Correlation = d.Loss, d.Correlation
	config.Dice.GoodToBad, config.Dice.BadToGood = d.GoodToBad, d.BadToGood
	config.Dice.LossGood, config.Dice.LossBad = d.LossGood, d.LossBad
	config.Dice.Ramp = d.Ramp
	config.Dice.PulseOn, config.Dice.PulsePeriod = d.PulseOn, d.PulsePeriod
	config.Filter.Flags, config.Filter.Protocol = in.plan.filterFlags(), filterProtocol(in.plan.filter.protocol)
	if in.plan.req.Observe {
		config.Observe = 1
	}
	if err := spec.Variables[cgroupskb.ObjectsVarFlConfig].Set(config); err != nil {
		return fmt.Errorf("configuring programs: %w", err)
	}
	collection, err := load(spec, nil, in.plan.egressProgram, in.plan.ingressProgram)
	if err != nil {
		return err
	}
	in.maps = collection.Maps
	in.keep(collection)
	return nil
}

func (in *injection) keep(collection *ebpf.Collection) {
	for name, program := range collection.Programs {
		in.programs[name] = program
	}
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

// Flags of enum fl_filter_flag.
const (
	filterPeers         = 1 << 0
	filterExcludedPeers = 1 << 1
	filterPorts         = 1 << 2
	filterLocalPorts    = 1 << 3
	filterExemptSSH     = 1 << 4
	filterExempt        = 1 << 5
	filterNew           = 1 << 6
	filterEstablished   = 1 << 7
	filterNeedsPorts    = 1 << 8
)

func (p *plan) filterFlags() uint32 {
	var flags uint32
	for flag, set := range map[uint32]bool{
		filterPeers:         !p.filter.everybody(),
		filterExcludedPeers: len(p.filter.excluded) > 0,
		filterPorts:         p.filter.ports != nil,
		filterLocalPorts:    p.filter.localPorts != nil,
		filterExemptSSH:     p.filter.exemptSSH,
		filterExempt:        len(p.exempt()) > 0,
		filterNew:           p.filter.connections == v1.Filter_NEW,
		filterEstablished:   p.filter.connections == v1.Filter_ESTABLISHED,
		filterNeedsPorts:    p.filter.needsPorts,
	} {
		if set {
			flags |= flag
		}
	}
	return flags
}

// filterProtocol gives the values of enum fl_filter_protocol.
func filterProtocol(protocol v1.Filter_Protocol) uint32 {
	switch protocol {
	case v1.Filter_TCP:
		return 1
	case v1.Filter_UDP:
		return 2
	case v1.Filter_ICMP:
		return 3
	default:
		return 0
	}
}

// fill writes the filter's lists.
func (in *injection) fill() error {
	p := in.plan
	if err := putPrefixes(in.maps[cgroupskb.ObjectsMapFlPeers], p.peers.list()); err != nil {
		return err
	}
	if err := putPrefixes(in.maps[cgroupskb.ObjectsMapFlExcluded], p.filter.excluded); err != nil {
		return err
	}
	for first, set := range map[uint32]*portSet{0: p.filter.ports, 1024: p.filter.localPorts} {
		if set == nil {
			continue
		}
		for word, bits := range set {
			if err := in.maps[cgroupskb.ObjectsMapFlPorts].Put(first+uint32(word), bits); err != nil {
				return fmt.Errorf("writing ports: %w", err)
			}
		}
	}
	for _, address := range p.exempt() {
		key := cgroupskb.ObjectsFlEndpoint{Port: address.Port()}
		key.Address.Bytes = address.Addr().As16()
		if err := in.maps[cgroupskb.ObjectsMapFlExempt].Put(key, uint8(1)); err != nil {
			return fmt.Errorf("writing exempt address %s: %w", address, err)
		}
	}
	return nil
}

// hook loads the interfaces' program and puts it where the target's packets
// leave. It idles until packets are marked.
func (in *injection) hook(ctx context.Context, mark uint32, rec fault.Recorder) error {
	spec, err := tc.LoadObjects()
	if err != nil {
		return err
	}
	config := tc.ObjectsFlTcConfig{Mark: mark}
	for _, cgroup := range in.plan.req.Cgroups {
		config.Levels |= 1 << cgroup.Level
	}
	if err := spec.Variables[tc.ObjectsVarFlTcConfig].Set(config); err != nil {
		return fmt.Errorf("configuring programs: %w", err)
	}
	collection, err := load(spec, map[string]*ebpf.Map{
		tc.ObjectsMapFlLease: in.maps[cgroupskb.ObjectsMapFlLease],
		tc.ObjectsMapFlStats: in.maps[cgroupskb.ObjectsMapFlStats],
	}, in.plan.hook.program)
	if err != nil {
		return err
	}
	in.keep(collection)
	// The maps live as long as the programs that use them.
	defer func() {
		for _, m := range collection.Maps {
			_ = m.Close()
		}
	}()
	for _, cgroup := range in.plan.req.Cgroups {
		if err := collection.Maps[tc.ObjectsMapFlTargets].Put(cgroup.ID, uint8(1)); err != nil {
			return fmt.Errorf("writing target %s: %w", cgroup.Path, err)
		}
	}
	in.egress = &egress{
		hook:    *in.plan.hook,
		program: in.programs[in.plan.hook.program],
		rec:     rec,
		cgroups: in.plan.req.Cgroups,
		hooked:  map[place]unhookFunc{},
		held:    map[uint64]*namespace{},
	}
	return in.egress.refresh(ctx, in.plan.peers)
}

func (in *injection) attach(cgroup fault.Cgroup) error {
	dir, err := cgroup.Open()
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	for _, hook := range []struct {
		program string
		attach  ebpf.AttachType
	}{
		{in.plan.egressProgram, ebpf.AttachCGroupInetEgress},
		{in.plan.ingressProgram, ebpf.AttachCGroupInetIngress},
	} {
		if hook.program == "" {
			continue
		}
		l, err := link.AttachRawLink(link.RawLinkOptions{
			Target:  int(dir.Fd()),
			Program: in.programs[hook.program],
			Attach:  hook.attach,
		})
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attaching to %s: a cgroup above it has a program that allows no others, as systemd's IPAddressAllow= attaches on old versions: %w", cgroup.Path, unix.EPERM)
		}
		if err != nil {
			return fmt.Errorf("attaching to %s: %w", cgroup.Path, err)
		}
		in.links = append(in.links, l)
	}
	return nil
}

// detach ends a link. Closing alone would do, but leaves the detaching to a
// worker of the kernel, some time later (bpf_link_put); this waits for it.
func detach(l link.Link) error {
	err := l.Detach()
	// The link of an interface or cgroup that is gone is detached already
	// (ENOLINK, EINVAL by kernel); before 5.9 there is no detaching.
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.EINVAL) {
		err = nil
	}
	if err != nil {
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
	err := in.plan.peers.refresh(ctx, in.maps[cgroupskb.ObjectsMapFlPeers])
	if in.egress != nil {
		err = errors.Join(err, in.egress.refresh(ctx, in.plan.peers))
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
	// The CPUs are read one after another: a packet may be hit on one after
	// it was not yet chosen on another.
	return fault.Counters{Matched: sum.Matched, Injected: sum.Hit, Missed: sum.Chosen - min(sum.Hit, sum.Chosen)}, nil
}

// Events implements fault.Injection.
func (in *injection) Events() []*v1.Event {
	if in.events == nil {
		return nil
	}
	return in.events.drain()
}

// Revert implements fault.Injection. First nothing more is marked, then
// nothing more is lost, and then the way out is cleared.
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
		errs = append(errs, in.events.close())
	}
	if in.egress != nil {
		errs = append(errs, in.egress.release())
	}
	for _, program := range in.programs {
		errs = append(errs, program.Close())
	}
	for _, m := range in.maps {
		errs = append(errs, m.Close())
	}
	in.programs, in.maps = nil, nil
	return errors.Join(errs...)
}
