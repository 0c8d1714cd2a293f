package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	bpf "faultline.dev/faultline/bpf/dns"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/filter"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/tracing"
)

// config is struct fl_dns_config.
type config struct {
	Filter filter.Config
	// Ports are in network byte order.
	Ports      [serversMax][2]byte
	Everywhere uint32
	_          uint32
}

// knownServers is struct fl_servers.
type knownServers struct {
	_       uint32
	Servers [serversMax]struct {
		Address [16]byte
		Port    [2]byte
		_       uint16
	}
}

// hooks are those of the cgroup, with the programs for them.
var hooks = []tracing.Hook{
	{Function: "cgroup/connect4", Program: bpf.ObjectsProgFlConnect4, Name: "connect4"},
	{Function: "cgroup/connect6", Program: bpf.ObjectsProgFlConnect6, Name: "connect6"},
	{Function: "cgroup/sendmsg4", Program: bpf.ObjectsProgFlSendmsg4, Name: "sendmsg4"},
	{Function: "cgroup/sendmsg6", Program: bpf.ObjectsProgFlSendmsg6, Name: "sendmsg6"},
	{Function: "cgroup/recvmsg4", Program: bpf.ObjectsProgFlRecvmsg4, Name: "recvmsg4"},
	{Function: "cgroup/recvmsg6", Program: bpf.ObjectsProgFlRecvmsg6, Name: "recvmsg6"},
	{Function: "cgroup/getpeername4", Program: bpf.ObjectsProgFlGetpeername4, Name: "getpeername4"},
	{Function: "cgroup/getpeername6", Program: bpf.ObjectsProgFlGetpeername6, Name: "getpeername6"},
}

func (p *plan) programs(c config) (*tracing.Fault, error) {
	spec, err := bpf.LoadObjects()
	if err != nil {
		return nil, err
	}
	c.Filter = p.filter.Config(p.exempt())
	if err := spec.Variables[bpf.ObjectsVarFlDnsConfig].Set(c); err != nil {
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	return &tracing.Fault{Spec: spec, Cgroups: p.req.Cgroups, Hooks: slices.Clone(hooks)}, nil
}

// exempt are the addresses that are never touched.
func (p *plan) exempt() []netip.AddrPort { return p.peers.Exempt(p.req.Exempt) }

// namespaces are those of the target's processes. Where it has none, this process's own
// is taken: most that come later, as cron's do, are in that one.
func (p *plan) namespaces() ([]*netns.Namespace, error) {
	list, err := netns.Of(p.req.Cgroups)
	if err != nil || len(list) > 0 {
		return list, err
	}
	own, err := netns.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	return []*netns.Namespace{own}, nil
}

// resolverChanges says where resolvers would be.
func (p *plan) resolverChanges() (list []*v1.Change, warnings []string, err error) {
	namespaces, err := p.namespaces()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, netns.CloseAll(namespaces)) }()
	for _, ns := range namespaces {
		list = append(list, &v1.Change{
			Object: ns.String(),
			Action: fmt.Sprintf("listen to %d ports of 127.0.0.1 and ::1, UDP and TCP", serversMax),
			Undo:   "kernel (the sockets end with the process)",
		})
	}
	if cookie, err := cookieHere(); err != nil {
		return nil, nil, err
	} else if cookie == 0 {
		warnings = append(warnings, "before Linux 5.14 network namespaces can't be told apart: a process that comes in a new one is refused by its name server for up to a second")
	}
	return list, warnings, nil
}

// injection is an active fault.
type injection struct {
	fault.Injection
	plan     *plan
	ports    [serversMax]uint16
	servers  *ebpf.Map
	places   map[uint64]*place
	sequence *dice.Sequence

	mu        sync.Mutex
	deadline  uint64
	start     uint64
	counters  fault.Counters
	events    []*v1.Event
	lastEvent uint64
}

// inject opens the resolvers and then leads there.
func (p *plan) inject(ctx context.Context, rec fault.Recorder) (_ fault.Injection, err error) {
	in := &injection{plan: p, places: map[uint64]*place{}, sequence: dice.NewSequence(dice.New(p.req.Seed, p.req.Spec))}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.closeAll())
		}
	}()
	if err := in.openAll(); err != nil {
		return nil, err
	}
	var c config
	for i, port := range in.ports {
		binary.BigEndian.PutUint16(c.Ports[i][:], port)
	}
	cookie, err := cookieHere()
	if err != nil {
		return nil, err
	}
	if cookie == 0 {
		c.Everywhere = in.everywhere()
	}
	f, err := p.programs(c)
	if err != nil {
		return nil, err
	}
	f.Keep = in.keep
	if in.Injection, err = f.Inject(ctx, rec); err != nil {
		return nil, err
	}
	return in, nil
}

// The ports are looked for where the kernel takes none by itself
// (net.ipv4.ip_local_port_range).
const (
	portMin = 16384
	portMax = 32768
	// portTries is how often others are taken when one is in use.
	portTries = 20
)

// openAll opens the resolvers of the target's namespaces, all with the same ports.
func (in *injection) openAll() error {
	var err error
	for try := range uint64(portTries) {
		first := portMin + dice.Random(in.plan.req.Seed, try, dice.StreamModel)%(portMax-portMin-serversMax)
		for i := range in.ports {
			in.ports[i] = uint16(first) + uint16(i)
		}
		if err = in.openNew(); !errors.Is(err, errTaken) {
			return err
		}
		if err := in.closeAll(); err != nil {
			return err
		}
	}
	return err
}

// openNew opens the resolvers of namespaces that have none yet.
func (in *injection) openNew() error {
	namespaces, err := in.plan.namespaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range namespaces {
		if in.places[ns.Inode] != nil {
			errs = append(errs, ns.Close())
			continue
		}
		p, err := listen(ns, in.ports, in)
		if err != nil {
			errs = append(errs, fmt.Errorf("in %s: %w", ns, err))
			continue
		}
		in.places[ns.Inode] = p
	}
	return errors.Join(errs...)
}

// everywhere is what all resolvers listen to.
func (in *injection) everywhere() uint32 {
	reach := uint32(reachIPv4 | reachIPv6)
	for _, p := range in.places {
		reach &= p.reach
	}
	return reach
}

// keep follows namespaces that come, and tells the programs.
func (in *injection) keep(ctx context.Context, maps map[string]*ebpf.Map) error {
	if in.served() == nil {
		if err := in.plan.peers.Fill(maps, in.plan.exempt()); err != nil {
			return err
		}
		// The resolvers need it a little longer than the programs.
		servers, err := maps[bpf.ObjectsMapFlServers].Clone()
		if err != nil {
			return fmt.Errorf("keeping the servers: %w", err)
		}
		in.mu.Lock()
		in.servers = servers
		in.mu.Unlock()
	}
	err := errors.Join(in.openNew(), in.plan.peers.Refresh(ctx, maps[filter.PeersMap]))
	for _, p := range in.places {
		if p.cookie == 0 {
			continue
		}
		if put := maps[bpf.ObjectsMapFlNamespaces].Put(p.cookie, p.reach); put != nil {
			err = errors.Join(err, fmt.Errorf("writing %s: %w", p.ns, put))
		}
	}
	return err
}

// served is the map of the servers, nil before it is there.
func (in *injection) served() *ebpf.Map {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.servers
}

// server implements backend.
func (in *injection) server(i int) (netip.AddrPort, error) {
	servers := in.served()
	if servers == nil {
		return netip.AddrPort{}, errors.New("nobody is led here yet")
	}
	var known knownServers
	if err := servers.LookupWithFlags(uint32(0), &known, ebpf.LookupLock); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the servers: %w", err)
	}
	s := known.Servers[i]
	port := binary.BigEndian.Uint16(s.Port[:])
	if port == 0 {
		return netip.AddrPort{}, errors.New("nobody has asked a server there")
	}
	return netip.AddrPortFrom(netip.AddrFrom16(s.Address).Unmap(), port), nil
}

// Start implements fault.Injection.
func (in *injection) Start(l fault.Lease) error {
	in.mu.Lock()
	in.start, in.deadline = fault.BootTime(), l.Deadline
	in.mu.Unlock()
	return in.Injection.Start(l)
}

// Renew implements fault.Injection.
func (in *injection) Renew(l fault.Lease) error {
	in.mu.Lock()
	in.deadline = l.Deadline
	in.mu.Unlock()
	return in.Injection.Renew(l)
}

// sampleInterval is the time between two events at least, ns.
const sampleInterval = 10 * 1000 * 1000

// judge implements backend.
func (in *injection) judge(query []byte, client, protocol string) (message []byte, answered bool) {
	q, ok := parse(query)
	if !ok || !concerns(in.plan.spec, q) {
		return nil, false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	now := fault.BootTime()
	if in.start == 0 || now >= in.deadline {
		return nil, false
	}
	elapsed := time.Duration(now - in.start)
	if !dice.New(in.plan.req.Seed, in.plan.req.Spec).On(elapsed) {
		return nil, false
	}
	in.counters.Matched++
	ordinal := in.sequence.Ordinal()
	if !in.sequence.NextAt(elapsed) {
		return nil, false
	}
	message, err := answer(in.plan.spec, q, in.plan.req.Seed, ordinal)
	if err != nil {
		in.counters.Missed++
		return nil, false
	}
	in.counters.Injected++
	if now-in.lastEvent >= sampleInterval {
		in.lastEvent = now
		in.events = append(in.events, &v1.Event{
			Time: events.At(now), What: in.plan.spec.GetAnswer().String(), Path: q.typeName() + " " + q.name(),
			Local: client, Protocol: protocol,
		})
	}
	return message, !in.plan.req.Observe
}

// Counters implements fault.Injection. What could not be led to a resolver counts as
// missed, whatever it asked for.
func (in *injection) Counters() (fault.Counters, error) {
	led, err := in.Injection.Counters()
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.counters
	c.Missed += led.Missed
	return c, err
}

// Events implements fault.Injection.
func (in *injection) Events() []*v1.Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := in.events
	in.events = nil
	return list
}

// drainLongest is how long questions that were passed on may still be answered when
// the fault is taken back.
const drainLongest = time.Second

// Revert implements fault.Injection. Who has been led astray gets an answer before the
// resolvers go.
func (in *injection) Revert(ctx context.Context) error {
	in.mu.Lock()
	in.deadline = 0
	in.mu.Unlock()
	if err := in.Injection.Revert(ctx); err != nil {
		return err
	}
	end := time.Now().Add(drainLongest)
	for _, p := range in.places {
		p.drain(time.Until(end))
	}
	return in.closeAll()
}

func (in *injection) closeAll() error {
	var errs []error
	// Last of all: the resolvers ask it.
	defer func() { _ = in.served().Close() }()
	for inode, p := range in.places {
		errs = append(errs, p.close())
		delete(in.places, inode)
	}
	return errors.Join(errs...)
}
