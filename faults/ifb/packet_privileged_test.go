//go:build linux && privileged

package ifb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

const notSupported = unix.EOPNOTSUPP

// foreignMark is what somebody else gives packets.
const foreignMark = 0x77

// Offsets in struct __sk_buff.
const (
	skbMark     = 8
	skbProtocol = 16
)

// looker counts the IPv4 packets that it sees, and those of them that have the mark.
type looker struct {
	t       *testing.T
	program *ebpf.Program
	seen    *ebpf.Map
}

// newLooker loads a program of somebody else. set lets it give the mark instead
// of looking for it.
func newLooker(t *testing.T, typ ebpf.ProgramType, set bool, result int32) *looker {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seen.Close() })
	count := func(key int64, label string) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -4, key, asm.Word).WithSymbol(label),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		}
	}
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word),
		asm.JNE.Imm(asm.R1, 0x0008, "out"), // ETH_P_IP in network byte order
	}
	if set {
		insns = append(insns, asm.Mov.Imm(asm.R1, foreignMark), asm.StoreMem(asm.R6, skbMark, asm.R1, asm.Word))
	}
	insns = append(insns, count(0, "")...)
	insns = append(insns, asm.LoadMem(asm.R1, asm.R6, skbMark, asm.Word), asm.JNE.Imm(asm.R1, foreignMark, "out"))
	insns = append(insns, count(1, "")...)
	insns = append(insns, asm.Mov.Imm(asm.R0, result).WithSymbol("out"), asm.Return())
	attach := ebpf.AttachNone
	if typ == ebpf.CGroupSKB {
		attach = ebpf.AttachCGroupInetIngress
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: typ, AttachType: attach, License: "GPL", Instructions: insns,
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return &looker{t, program, seen}
}

func (l *looker) count() (all, marked uint64) {
	l.t.Helper()
	for key, value := range map[uint32]*uint64{0: &all, 1: &marked} {
		if err := l.seen.Lookup(key, value); err != nil {
			l.t.Fatal(err)
		}
	}
	return all, marked
}

// Filters of others at the interface see every packet once and first, and the
// mark that they give it is still on it when the socket gets it.
func TestForeignFiltersAndMarks(t *testing.T) {
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("udp-echo", address)
	target := f.prober(f.target, f.network.A, address)
	target.ask("udp", 1)

	foreign := newLooker(t, ebpf.SchedCLS, true, -1)
	f.network.A.Run("tc", "qdisc", "add", "dev", env.Veth, "clsact")
	d := f.begin(setting{delay: wait})
	err := clsact.Add(d.ns, clsact.Filter{
		Index: index(f.network.A, env.Veth), Side: clsact.Ingress, Name: "foreign", Priority: 40000, Program: foreign.program,
	})
	if err != nil {
		t.Fatal(err)
	}
	before := dump(f.network.A)
	f.foreign(d, "tc filter bpf, priority 40000 foreign")
	if err := d.device.Steer(index(f.network.A, env.Veth), d.steering()); err != nil {
		t.Fatal(err)
	}
	f.foreign(d, "tc filter bpf, priority 40000 foreign")
	d.lease(time.Hour)
	socket := newLooker(t, ebpf.CGroupSKB, false, 1)
	l, err := link.AttachCgroup(link.CgroupOptions{
		Path: f.target.Path, Attach: ebpf.AttachCGroupInetIngress, Program: socket.program,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for range times {
		if took := target.ask("udp", 1).Took; took < wait {
			t.Errorf("an answer came after %s", took)
		}
	}
	if all, marked := socket.count(); all != times || marked != times {
		t.Errorf("the socket got %d packets, %d with the mark", all, marked)
	}
	if all, _ := foreign.count(); all != times {
		t.Errorf("the other filter has seen %d packets of %d", all, times)
	}
	d.end()
	env.Unchanged(t, withoutDevice(before, d.device.Name), dump(f.network.A))
}

// foreign compares what others have at the interface.
func (f *fixture) foreign(d *delayed, want ...string) {
	f.t.Helper()
	list, err := ifb.Foreign(d.ns, index(f.network.A, env.Veth))
	if err != nil {
		f.t.Error(err)
	}
	if diff := cmp.Diff(want, list); diff != "" {
		f.t.Error(diff)
	}
}

func TestForeignTCX(t *testing.T) {
	f := newFixture(t)
	need(t, kernel.TCX)
	d := f.delay(setting{delay: wait}, env.Veth)
	f.foreign(d)
	foreign := newLooker(t, ebpf.SchedCLS, false, -1)
	var l link.Link
	f.network.A.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: index(f.network.A, env.Veth), Program: foreign.program, Attach: ebpf.AttachTCXIngress,
		})
		return err
	})
	defer func() { _ = l.Close() }()
	info, err := foreign.program.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	f.foreign(d, fmt.Sprintf("tcx program %d", id))
}

// What others let pass for good we never see; it is no worse than without us.
func TestForeignFilterHasTheLastWord(t *testing.T) {
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("udp-echo", address)
	target := f.prober(f.target, f.network.A, address)
	d := f.delay(setting{delay: wait}, env.Veth)
	const pass = 0 // TC_ACT_OK
	foreign := newLooker(t, ebpf.SchedCLS, true, pass)
	err := clsact.Add(d.ns, clsact.Filter{
		Index: index(f.network.A, env.Veth), Side: clsact.Ingress, Name: "foreign", Priority: 1, Program: foreign.program,
	})
	if err != nil {
		t.Fatal(err)
	}
	target.ask("udp", 1)
	if c := d.count(); c.Matched != 0 {
		t.Errorf("%+v", c)
	}
	d.end()
	if filters := f.network.A.Run("tc", "filter", "show", "dev", env.Veth, "ingress"); filters == "" {
		t.Error("the other filter is gone")
	}
}

// Of sockets at one port in several cgroups the lookup finds the one that gets
// the packet.
func TestPortSharedByCgroups(t *testing.T) {
	f := newFixture(t)
	address := env.AddressA + ":7000"
	ours := f.serve(f.target, f.network.A, "group", address)
	theirs := f.serve(f.neighbour, f.network.A, "group", address)
	d := f.delay(setting{delay: wait}, env.Veth)
	const clients = 24
	late := 0
	for range clients {
		// Each client has a port of its own, by which the kernel chooses.
		client := f.prober(f.beyond, f.network.B, address)
		if client.ask("udp", 1).Took >= wait {
			late++
		}
		client.process.Kill()
	}
	count := func(p *env.Process) (n int) {
		p.Tell("count")
		p.Read(&n)
		return n
	}
	got, rest := count(ours), count(theirs)
	if got == 0 || rest == 0 || got+rest != clients {
		t.Fatalf("the target got %d, the neighbour %d: the test shows nothing", got, rest)
	}
	if c := d.count(); late != got || c.Hit != uint64(got) {
		t.Errorf("the target got %d, %d were late: %+v", got, late, c)
	}
}

// Without a lease, and with observe, packets take their old way.
func TestNothingIsSteeredWithoutALease(t *testing.T) {
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("udp-echo", address)
	target := f.prober(f.target, f.network.A, address)
	d := f.begin(setting{delay: wait}, env.Veth)
	target.ask("udp", 1)
	if c := d.count(); c != (counts{}) {
		t.Errorf("before its start: %+v", c)
	}
	d.lease(time.Hour)
	if took := target.ask("udp", 1).Took; took < wait {
		t.Errorf("an answer came after %s", took)
	}
	before := d.count()
	d.lease(time.Nanosecond)
	target.ask("udp", 1)
	if c := d.count(); c != before {
		t.Errorf("after its end: %+v, before %+v", c, before)
	}
	d.end()

	d = f.delay(setting{delay: wait, observe: true}, env.Veth)
	target.ask("udp", 1)
	if c := d.count(); c.Matched != 1 || c.Chosen != 1 || c.Hit != 0 || c.Passed != 0 {
		t.Errorf("observing: %+v", c)
	}
}
