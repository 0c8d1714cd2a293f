package file

import (
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// fileEvent is struct fl_file_event.
type fileEvent struct {
	Time      uint64
	Cgroup    uint64
	Inode     uint64
	PID       uint32
	Operation uint32
	Error     uint32
	Command   [16]byte
	Name      [64]byte
	_         uint32
}

func (e *fileEvent) event() *v1.Event {
	event := &v1.Event{
		Time:     events.At(e.Time),
		What:     v1.FileOperation(e.Operation).String(),
		Pid:      int32(e.PID),
		Command:  unix.ByteSliceToString(e.Command[:]),
		Path:     unix.ByteSliceToString(e.Name[:]),
		CgroupId: e.Cgroup,
	}
	if e.Error != 0 {
		event.Errno = unix.ErrnoName(unix.Errno(e.Error))
	}
	return event
}
