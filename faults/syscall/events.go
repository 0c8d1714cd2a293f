package syscall

import (
	"bytes"
	"encoding/binary"
	"runtime"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
	"faultline.dev/faultline/faults/kernel"
)

// callEvent is struct fl_call_event.
type callEvent struct {
	Time    uint64
	Cgroup  uint64
	PID     uint32
	Number  uint32
	Entry   uint32
	Command [16]byte
	Error   uint32
}

func (p *errorPlan) decode(sample []byte) *v1.Event {
	var raw callEvent
	if binary.Read(bytes.NewReader(sample), binary.NativeEndian, &raw) != nil {
		return nil
	}
	arch := runtime.GOARCH
	if abi, _ := kernel.Syscalls(); raw.Entry != 0 {
		arch = abi.Arch32
	}
	return &v1.Event{
		Time:     events.At(raw.Time),
		What:     callName(arch, raw.Number),
		Pid:      int32(raw.PID),
		Command:  unix.ByteSliceToString(raw.Command[:]),
		Errno:    unix.ErrnoName(unix.Errno(raw.Error)),
		CgroupId: raw.Cgroup,
	}
}
