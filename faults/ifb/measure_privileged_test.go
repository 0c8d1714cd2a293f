//go:build linux && privileged

package ifb_test

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/test/env"
)

func TestMeasureRedirect(t *testing.T) {
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("udp-echo", address)
	sender := f.prober(f.target, f.network.A, address)
	sender.ask("udp", 1)
	d := f.begin(setting{delay: wait})
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "redir", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word),
		asm.Mov.Imm(asm.R0, -1),
		asm.JNE.Imm(asm.R1, 0x0008, "out"), // ETH_P_IP in network byte order
		asm.Mov.Imm(asm.R1, int32(d.device.Index)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return().WithSymbol("out"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := clsact.Ensure(d.ns, index(f.network.A, env.Veth)); err != nil {
		t.Fatal(err)
	}
	err = clsact.Add(d.ns, clsact.Filter{Index: index(f.network.A, env.Veth), Side: clsact.Ingress, Name: "x", Priority: 1, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	sender.process.Tell("udp 1")
	_ = env.Within(2*time.Second, func() error {
		if c := d.count(); c.Passed+c.Dropped == 0 {
			return os.ErrNotExist
		}
		return nil
	})
	t.Logf("bpf_redirect to ifb: %+v", d.count())
	t.Log(f.network.A.Run("ip", "-s", "link", "show", "dev", d.device.Name))
}

func TestMeasureStreams(t *testing.T) {
	const size = 4 << 20
	f := newFixture(t)
	address := env.AddressB + ":7000"
	f.answer("tcp-serve", address)
	target := f.prober(f.target, f.network.A, address)
	for range 2 {
		a := target.ask("stream", size)
		t.Logf("plain %s retransmits %d", a.Took, a.Retransmits)
	}
	d := f.delay(setting{delay: 20 * time.Millisecond}, env.Veth)
	for range 3 {
		a := target.ask("stream", size)
		t.Logf("inbound %s retransmits %d", a.Took, a.Retransmits)
	}
	t.Logf("%+v", d.count())
	t.Log(f.network.A.Run("tc", "-s", "qdisc", "show", "dev", d.device.Name))
	d.end()
	f.network.B.Run("tc", "qdisc", "add", "dev", env.Veth, "root", "netem", "delay", "20ms", "limit", "100000")
	for range 3 {
		a := target.ask("stream", size)
		t.Logf("netem %s retransmits %d", a.Took, a.Retransmits)
	}
	// A bystander.
	f.network.B.Run("tc", "qdisc", "del", "dev", env.Veth, "root")
}
