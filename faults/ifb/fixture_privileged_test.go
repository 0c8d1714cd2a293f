//go:build linux && privileged

package ifb_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/netns"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func native(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

func noContext() context.Context { return context.Background() }

const always = 1 << 32

// fixture has a target and a neighbour in A, and who answers them in B.
type fixture struct {
	t                         *testing.T
	network                   env.Network
	target, neighbour, beyond fault.Cgroup
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	need(t, kernel.ClsBPF, kernel.FQ, kernel.IFB)
	f := &fixture{
		t: t, network: env.NewNetwork(t),
		target: env.Cgroup(t), neighbour: env.Cgroup(t), beyond: env.Cgroup(t),
	}
	// A namespace without a process in it has nothing to undo.
	f.prober(f.beyond, f.network.A, "")
	f.prober(f.beyond, f.network.B, "")
	return f
}

func need(t *testing.T, capabilities ...kernel.Capability) {
	t.Helper()
	prober := env.Prober(t)
	for _, capability := range capabilities {
		if answer := prober.Probe(t.Context(), capability); !answer.OK() {
			kernels.Missing(t, string(capability), errors.New(answer.Reason))
		}
	}
}

// answer starts a server in B.
func (f *fixture) answer(workload, address string) {
	f.t.Helper()
	f.serve(f.beyond, f.network.B, workload, address)
}

func (f *fixture) serve(cgroup fault.Cgroup, ns *env.Namespace, workload, address string) *env.Process {
	f.t.Helper()
	var ready string
	process := env.Start(f.t, cgroup, ns, workload, address)
	process.Read(&ready)
	return process
}

func (f *fixture) prober(cgroup fault.Cgroup, ns *env.Namespace, address string) prober {
	f.t.Helper()
	return prober{f.t, f.serve(cgroup, ns, "probe", address)}
}

// setting is what a test wants of a delay.
type setting struct {
	delay     time.Duration
	ownNetns  bool
	observe   bool
	peer      netip.Addr
	packets   uint32
	namespace *env.Namespace // A
	alias     string
}

// delayed is a delay that is on.
type delayed struct {
	t        *testing.T
	ns       *netns.Namespace
	device   *ifb.Device
	recorder *env.Recorder
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
}

// begin delays what the target receives, idle until start.
func (f *fixture) begin(s setting, interfaces ...string) *delayed {
	f.t.Helper()
	t := f.t
	if s.namespace == nil {
		s.namespace = f.network.A
	}
	if s.packets == 0 {
		s.packets = 100000
	}
	d := &delayed{t: t, recorder: &env.Recorder{}}
	s.namespace.Do(func() (err error) {
		d.ns, err = netns.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { _ = d.ns.Close() })
	unstamp := d.load(f, s)
	var err error
	d.device, err = ifb.Create(t.Context(), d.ns, ifb.Options{
		Alias: s.alias, Longest: s.delay, Packets: s.packets, Stamp: d.programs["stamp"],
	}, d.recorder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.end)
	for _, name := range interfaces {
		if err := d.device.Steer(index(s.namespace, name), d.steering()); err != nil {
			t.Fatal(err)
		}
	}
	if unstamp {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path: f.target.Path, Attach: ebpf.AttachCGroupInetIngress, Program: d.programs["unstamp"],
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	return d
}

// delay begins and starts.
func (f *fixture) delay(s setting, interfaces ...string) *delayed {
	f.t.Helper()
	d := f.begin(s, interfaces...)
	d.lease(time.Hour)
	return d
}

func index(ns *env.Namespace, name string) (index int) {
	ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	return index
}

func (d *delayed) load(f *fixture, s setting) (unstamp bool) {
	t := d.t
	t.Helper()
	config := inbound.ObjectsFlConfig{Run: 0xbeef0000, Levels: 1 << f.target.Level}
	config.Delay.Delay, config.Delay.Size = uint64(s.delay), 1
	config.Dice.Probability = always
	if s.observe {
		config.Observe = 1
	}
	if s.peer.IsValid() {
		config.Filter.Flags |= 1
	}
	collection, programs, err := loadWith(config, s.ownNetns)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(collection.Close)
	d.maps, d.programs = collection.Maps, programs
	if err := d.maps[inbound.ObjectsMapFlTargets].Put(f.target.ID, uint8(1)); err != nil {
		t.Fatal(err)
	}
	if s.peer.IsValid() {
		key := inbound.ObjectsFlPrefix{Length: 128}
		key.Address.Bytes = s.peer.As16()
		if err := d.maps[inbound.ObjectsMapFlPeers].Put(key, uint8(1)); err != nil {
			t.Fatal(err)
		}
	}
	return d.programs["unstamp"] != nil
}

// loadWith loads the programs that this kernel takes, under short names.
func loadWith(config inbound.ObjectsFlConfig, ownNetns bool) (*ebpf.Collection, map[string]*ebpf.Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, nil, err
	}
	stamp, unstamp, err := ifb.Stamping()
	if err != nil {
		return nil, nil, err
	}
	spec, err := inbound.LoadObjects()
	if err != nil {
		return nil, nil, err
	}
	if err := spec.Variables[inbound.ObjectsVarFlConfig].Set(config); err != nil {
		return nil, nil, err
	}
	choose := inbound.ObjectsProgFlInHold
	if ownNetns {
		choose = inbound.ObjectsProgFlInHoldAll
	}
	wanted := map[string]string{
		choose: "choose", inbound.ObjectsProgFlInCopy: "copy", inbound.ObjectsProgFlInTake: "take", stamp: "stamp",
	}
	if unstamp != "" {
		wanted[unstamp] = "unstamp"
	}
	for name := range spec.Programs {
		if wanted[name] == "" {
			delete(spec.Programs, name)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, nil, err
	}
	programs := map[string]*ebpf.Program{}
	for name, program := range collection.Programs {
		programs[wanted[name]] = program
	}
	return collection, programs, nil
}

// steering are the programs for an interface.
func (d *delayed) steering() ifb.Programs { return steering(d.programs) }

func steering(programs map[string]*ebpf.Program) ifb.Programs {
	return ifb.Programs{Choose: programs["choose"], Copy: programs["copy"], Take: programs["take"]}
}

// loadPlain is for a process whose programs need not run.
func loadPlain() (map[string]*ebpf.Program, error) {
	_, programs, err := loadWith(inbound.ObjectsFlConfig{}, false)
	return programs, err
}

// lease lets it go on for that long from now; 0 ends it.
func (d *delayed) lease(time time.Duration) {
	d.t.Helper()
	lease := inbound.ObjectsFlLease{}
	if time > 0 {
		lease = inbound.ObjectsFlLease{Deadline: fault.BootTime() + uint64(time), Start: 1}
	}
	if err := d.maps[inbound.ObjectsMapFlLease].Put(uint32(0), lease); err != nil {
		d.t.Fatal(err)
	}
}

// counts are the counters of all programs and of the device.
type counts struct {
	Matched, Chosen, Hit        uint64
	NoSocket, TimeWait, NoPorts uint64
	ifb.Stats
}

func (d *delayed) count() (sum counts) {
	d.t.Helper()
	var stats []inbound.ObjectsFlStats
	if err := d.maps[inbound.ObjectsMapFlStats].Lookup(uint32(0), &stats); err != nil {
		d.t.Fatal(err)
	}
	for _, s := range stats {
		sum.Matched, sum.Chosen = sum.Matched+s.Matched, sum.Chosen+s.Chosen
	}
	var done []uint64
	if err := d.maps[inbound.ObjectsMapFlDone].Lookup(uint32(0), &done); err != nil {
		d.t.Fatal(err)
	}
	for _, hit := range done {
		sum.Hit += hit
	}
	var strangers []inbound.ObjectsFlInStrangers
	if err := d.maps[inbound.ObjectsMapFlInStrangers].Lookup(uint32(0), &strangers); err != nil {
		d.t.Fatal(err)
	}
	for _, s := range strangers {
		sum.NoSocket, sum.TimeWait, sum.NoPorts = sum.NoSocket+s.NoSocket, sum.TimeWait+s.TimeWait, sum.NoPorts+s.NoPorts
	}
	var err error
	if sum.Stats, err = d.device.Stats(); err != nil {
		d.t.Fatal(err)
	}
	return sum
}

// agree fails unless everything that was chosen was hit and passed.
func (c counts) agree() error {
	if c.Chosen != c.Matched || c.Hit != c.Chosen || c.Passed != c.Hit || c.Dropped != 0 || c.Waiting != 0 {
		return fmt.Errorf("the counters don't agree: %+v", c)
	}
	return nil
}

// settle awaits that nothing is on its way any more, with the lease still on:
// what is chosen when it ends, and not yet cloned, is never hit.
func (d *delayed) settle() {
	d.t.Helper()
	await(d.t, func() error { return d.count().agree() })
}

// end takes the delay back, and fails the test when anything is left.
func (d *delayed) end() {
	d.t.Helper()
	d.lease(0)
	d.recorder.TakeBack(d.t, d.device)
}
