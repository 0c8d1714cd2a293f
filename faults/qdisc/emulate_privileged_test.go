//go:build linux && privileged

package qdisc_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/test/env"
)

// steering is a program by which a fault that emulates is known.
func steering(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: qdisc.ProgramSteer, Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return program
}

// What was there is put back after netem and tbf, too; while they are there
// they are one fault's alone, and without it they are found by their mark.
func TestEmulationIsPutBack(t *testing.T) {
	needs(t, kernel.Prio, kernel.Netem, kernel.TBF)
	configured := "tc qdisc add dev DEV root handle abcd: fq_codel limit 77 target 7ms interval 133ms"
	for _, test := range []struct {
		tree
		emulation qdisc.Emulation
		leaf      string
	}{
		{tree{name: "default", device: "eth0"}, qdisc.Netem{Delay: 50 * time.Millisecond, Jitter: time.Millisecond, Longest: time.Second}, "netem"},
		{tree{name: "lo", device: "lo"}, qdisc.TokenBucket{Rate: 1 << 33, Burst: 1 << 14, Longest: time.Second}, "tbf"},
		{tree{name: "configured fq_codel", device: "eth0", commands: []string{configured}}, qdisc.TokenBucket{Rate: 1000, Burst: 1 << 14, Longest: time.Second}, "tbf"},
		{tree{name: "explicit mq", device: "quad0", commands: []string{"tc qdisc add dev DEV root handle 5: mq"}}, qdisc.Netem{Duplicate: true}, "netem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := test.make(t, "")
			before := d.dump()
			rec := &env.Recorder{}
			program := steering(t)
			hold, err := qdisc.ReserveEmulation(d.ns, d.index, program, test.emulation, rec)
			if err != nil {
				t.Fatal(err)
			}
			d.unchanged(before)
			for range 2 {
				if _, err := hold.Make(qdisc.Params{}); err != nil {
					t.Fatal(err)
				}
			}
			d.has("prio fa19:")
			if text := d.show(); !strings.Contains(text, "parent fa19:2") || strings.Count(text, "qdisc "+test.leaf) != 1 {
				t.Error(text)
			}
			if _, err := qdisc.Look(d.ns, d.index, qdisc.Params{}); !errors.Is(err, fault.ErrUnavailable) {
				t.Errorf("fq in the place of the emulation: %v", err)
			}
			if _, err := qdisc.ReserveEmulation(d.ns, d.index, program, test.emulation, rec); !errors.Is(err, fault.ErrUnavailable) {
				t.Errorf("a second one: %v", err)
			}
			if list := d.remnants(); len(list) > 0 {
				t.Errorf("what a live process uses is taken for a remnant: %v", list)
			}
			for range 2 {
				if err := hold.Undo(t.Context()); err != nil {
					t.Error(err)
				}
				d.unchanged(before)
			}
			if open := rec.Open(); len(open) > 0 {
				t.Errorf("open: %v", open)
			}
			if _, err := hold.Make(qdisc.Params{}); err != nil {
				t.Fatal(err)
			}
			_ = program.Close()
			list := d.remnants()
			if len(list) != 1 {
				t.Fatalf("found %v", list)
			}
			if err := list[0].Undo(t.Context()); err != nil {
				t.Error(err)
			}
			if len(test.commands) == 0 {
				d.unchanged(before)
			}
			if list := d.remnants(); len(list) > 0 {
				t.Errorf("found after the undo: %v", list)
			}
		})
	}
}
