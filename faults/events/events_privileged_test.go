//go:build linux && privileged

package events_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// What a program wrote before Close is read, however soon Close comes.
func TestCloseReadsTheRest(t *testing.T) {
	const rounds, times, size = 50, 20, 16
	if err := rlimit.RemoveMemlock(); err != nil { // before 5.11
		t.Fatal(err)
	}
	for range rounds {
		ring, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096})
		if err != nil {
			t.Fatal(err)
		}
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.StoreMem(asm.RFP, -16, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, ring.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -16),
			asm.Mov.Imm(asm.R3, size),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRingbufOutput.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		sampler, err := events.Read(ring, func(sample []byte) *v1.Event {
			return &v1.Event{Pid: int32(len(sample))}
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: times}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := sampler.Close(); err != nil {
				t.Error(err)
			}
		}
		if read := sampler.Drain(); len(read) != times || read[0].GetPid() != size {
			t.Errorf("%d events of %d: %v", len(read), times, read)
		}
		program.Close()
		ring.Close()
	}
}
