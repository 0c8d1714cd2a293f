package disk

import (
	"fmt"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// diskEvent is struct fl_disk_event.
type diskEvent struct {
	Time      uint64
	Cgroup    uint64
	Sector    uint64
	Bytes     uint32
	Operation uint32
	PID       uint32
	Error     uint32
	Command   [16]byte
}

func (e *diskEvent) event() *v1.Event {
	event := &v1.Event{
		Time:     events.At(e.Time),
		What:     fmt.Sprintf("%s at sector %d", v1.DiskError_Operation(e.Operation), e.Sector),
		Pid:      int32(e.PID),
		Command:  unix.ByteSliceToString(e.Command[:]),
		Bytes:    e.Bytes,
		CgroupId: e.Cgroup,
	}
	if e.Error != 0 {
		event.Errno = unix.ErrnoName(unix.Errno(e.Error))
	}
	return event
}
