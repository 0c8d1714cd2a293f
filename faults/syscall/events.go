package syscall

import (
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

func (e *callEvent) event() *v1.Event {
	arch := runtime.GOARCH
	if abi, _ := kernel.Syscalls(); e.Entry != 0 {
		arch = abi.Arch32
	}
	return &v1.Event{
		Time:     events.At(e.Time),
		What:     Name(arch, e.Number),
		Pid:      int32(e.PID),
		Command:  unix.ByteSliceToString(e.Command[:]),
		Errno:    unix.ErrnoName(unix.Errno(e.Error)),
		CgroupId: e.Cgroup,
	}
}
