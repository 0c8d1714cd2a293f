package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/faults/qdisc"
)

// received is what a fault does with packets that come in: what stands at the
// ingress of the interfaces, and the ifb device behind it.
type received struct {
	// Programs of bpf/inbound that decide about a packet by the socket that it is
	// for, and about all packets of a namespace.
	bySocket, all string
	// queue is what the device has to be able to hold.
	queue qdisc.Params
}

// ingress keeps an ifb device in each network namespace of the target, and its
// filters at the interfaces.
type ingress struct {
	// bySocket is nil where the kernel can't tell whose a socket is; all serves
	// namespaces that the target has for itself.
	bySocket, all *ebpf.Program
	// steering is the rest of the programs at an interface.
	steering ifb.Programs
	options  ifb.Options
	// missing says why bySocket is nil.
	missing error

	rec     fault.Recorder
	own     *own
	cgroups []fault.Cgroup
	log     *slog.Logger

	devices map[uint64]*ifb.Device
	// steered tells which program chooses at an interface.
	steered map[place]*ebpf.Program
	held    map[uint64]*netns.Namespace
}

// newIngress wants the programs of bpf/inbound to be loaded. number is the
// fault's in the run.
func (in *injection) newIngress(rec fault.Recorder, stamp string) (*ingress, error) {
	r := in.plan.received
	limits, err := r.queue.Limits()
	if err != nil {
		return nil, err
	}
	g := &ingress{
		bySocket: in.programs[r.bySocket],
		all:      in.programs[r.all],
		steering: ifb.Programs{
			Copy: in.programs[inbound.ObjectsProgFlInCopy],
			Take: in.programs[inbound.ObjectsProgFlInTake],
		},
		options: ifb.Options{
			Alias: "faultline " + in.plan.kind,
			// The device that was made last is the first to take a packet,
			// whoever wants what of it.
			Longest: in.wire.holds(holder{in.number, true}, r.queue.Delay),
			Packets: limits.Packets,
			Stamp:   in.programs[stamp],
		},
		rec:     rec,
		own:     in.own,
		cgroups: in.plan.req.Cgroups,
		log:     in.plan.req.Log,
		missing: in.plan.noOwner,
		devices: map[uint64]*ifb.Device{},
		steered: map[place]*ebpf.Program{},
		held:    map[uint64]*netns.Namespace{},
	}
	return g, nil
}

// refresh makes devices in namespaces that have none yet, and leads packets of
// new interfaces there. A namespace in which somebody else has appeared is the
// target's alone no more.
func (g *ingress) refresh(ctx context.Context) error {
	found, err := netns.Of(g.cgroups)
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range found {
		if held := g.held[ns.Inode]; held != nil {
			_ = ns.Close()
			ns = held
		} else {
			g.held[ns.Inode] = ns
		}
		errs = append(errs, g.refreshNamespace(ctx, ns))
	}
	return errors.Join(errs...)
}

func (g *ingress) refreshNamespace(ctx context.Context, ns *netns.Namespace) error {
	choose, err := g.choose(ns)
	if err != nil {
		return err
	}
	interfaces, err := incoming(ns)
	if err != nil {
		return err
	}
	if g.devices[ns.Inode] == nil {
		device, err := ifb.Create(ctx, ns, g.options, g.rec)
		if err != nil {
			return err
		}
		g.devices[ns.Inode] = device
	}
	var errs []error
	for _, i := range interfaces {
		if err := g.steer(i, choose); !endedMeanwhile(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (g *ingress) steer(i iface, choose *ebpf.Program) error {
	at := place{i.namespace.Inode, i.index}
	if g.steered[at] == choose {
		return nil
	}
	if g.steered[at] == nil {
		if err := g.rec.Watch(watchInterface(i, g.own)); err != nil {
			return err
		}
	}
	programs := g.steering
	programs.Choose = choose
	if err := g.devices[i.namespace.Inode].Steer(i.index, programs); err != nil {
		return err
	}
	g.steered[at] = choose
	return nil
}

// endedMeanwhile tells whether an error says that an interface is no more: on a host
// of containers they come and go.
func endedMeanwhile(err error) bool {
	return errors.Is(err, fault.ErrGone) || errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

// choose returns the program that tells which packets of a namespace are the
// target's.
func (g *ingress) choose(ns *netns.Namespace) (*ebpf.Program, error) {
	stranger, err := ns.Stranger(g.cgroups)
	if err != nil {
		return nil, err
	}
	if stranger == "" {
		return g.all, nil
	}
	if g.bySocket == nil {
		return nil, fmt.Errorf("the target shares its network namespace with process %s: %w", stranger, g.missing)
	}
	return g.bySocket, nil
}

// revert takes the devices back, after what waits in them has gone on. What
// failed can be tried again.
func (g *ingress) revert(ctx context.Context) error {
	var errs []error
	for inode, device := range g.devices {
		if stats, err := device.Stats(); err == nil && stats.Dropped > 0 {
			g.log.Warn("packets that were received are lost, as too many waited", "packets", stats.Dropped, "netns", inode, "interface", device.Name)
		}
		if err := device.Revert(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(g.devices, inode)
	}
	return errors.Join(errs...)
}

// release closes what was held open.
func (g *ingress) release() error {
	var errs []error
	for inode, ns := range g.held {
		errs = append(errs, ns.Close())
		delete(g.held, inode)
	}
	return errors.Join(errs...)
}

// loadInbound loads the programs of the interfaces' ingress. They share with
// those of the cgroup what both directions have in common: lease, filter, dice,
// counters.
func (in *injection) loadInbound() (stamp string, err error) {
	spec, err := compiled(inboundPrograms)
	if err != nil {
		return "", err
	}
	config := in.plan.config(in.wire.run, in.number)
	config.Shape.Longest = uint64(in.plan.received.queue.Delay)
	if err := spec.Variables[inbound.ObjectsVarFlConfig].Set(config); err != nil {
		return "", fmt.Errorf("configuring programs: %w", err)
	}
	if in.plan.delay == nil {
		delete(spec.Maps, inbound.ObjectsMapFlDelays)
	}
	stamp, unstamp, err := ifb.Stamping()
	if err != nil {
		return "", err
	}
	shared := in.wire.maps()
	for name, m := range in.maps {
		if spec.Maps[name] != nil && name != rodata {
			shared[name] = m
		}
	}
	wanted := []string{in.plan.received.all, inbound.ObjectsProgFlInCopy, inbound.ObjectsProgFlInTake, stamp, unstamp}
	if in.plan.noOwner == nil {
		wanted = append(wanted, in.plan.received.bySocket)
	}
	collection, err := load(spec, shared, wanted...)
	if err != nil {
		return "", err
	}
	in.inboundMaps = collection.Maps
	for name := range shared {
		if m := in.inboundMaps[name]; m != nil {
			_ = m.Close() // a second descriptor
			delete(in.inboundMaps, name)
		}
	}
	if err := in.keep(collection); err != nil {
		return "", err
	}
	in.unstamp = unstamp
	for _, cgroup := range in.plan.req.Cgroups {
		if err := in.inboundMaps[inbound.ObjectsMapFlTargets].Put(cgroup.ID, uint8(1)); err != nil {
			return "", fmt.Errorf("writing target %s: %w", cgroup.Path, err)
		}
	}
	return stamp, nil
}

// steer leads what comes in to a device. It idles until the lease is written.
func (in *injection) steer(ctx context.Context, rec fault.Recorder) error {
	stamp, err := in.loadInbound()
	if err != nil {
		return err
	}
	if in.ingress, err = in.newIngress(rec, stamp); err != nil {
		return err
	}
	return in.ingress.refresh(ctx)
}

// incoming lists the interfaces by which packets can come in for a socket. A
// port of a bridge, a bond or a team hands its packets to the interface above.
func incoming(ns *netns.Namespace) ([]iface, error) {
	links, err := upLinks(ns)
	if err != nil {
		return nil, err
	}
	masters := map[int]bool{}
	for _, link := range links {
		if slices.Contains([]string{"bridge", "bond", "team"}, link.Type()) {
			masters[link.Attrs().Index] = true
		}
	}
	var list []iface
	for _, link := range links {
		attrs := link.Attrs()
		if link.Type() != "ifb" && !masters[attrs.MasterIndex] {
			list = append(list, iface{namespace: ns, index: attrs.Index, name: attrs.Name})
		}
	}
	return list, nil
}
