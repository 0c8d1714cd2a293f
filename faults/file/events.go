package file

import (
	"bytes"
	"encoding/binary"

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

func (p *errorPlan) decode(sample []byte) *v1.Event {
	var raw fileEvent
	if binary.Read(bytes.NewReader(sample), binary.NativeEndian, &raw) != nil {
		return nil
	}
	event := &v1.Event{
		Time:     events.At(raw.Time),
		What:     v1.FileOperation(raw.Operation).String(),
		Pid:      int32(raw.PID),
		Command:  unix.ByteSliceToString(raw.Command[:]),
		Path:     unix.ByteSliceToString(raw.Name[:]),
		CgroupId: raw.Cgroup,
	}
	if raw.Error != 0 {
		event.Errno = unix.ErrnoName(unix.Errno(raw.Error))
	}
	return event
}
