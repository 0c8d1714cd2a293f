package socket

import (
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// socketEvent is struct fl_socket_event.
type socketEvent struct {
	Time      uint64
	Cgroup    uint64
	PID       uint32
	Operation uint32
	Error     uint32
	Command   [16]byte
	Packet    events.Packet
}

func (e *socketEvent) event() *v1.Event {
	event := &v1.Event{
		Time:     events.At(e.Time),
		What:     v1.SocketError_Operation(e.Operation).String(),
		Pid:      int32(e.PID),
		Command:  unix.ByteSliceToString(e.Command[:]),
		CgroupId: e.Cgroup,
	}
	if e.Packet.Family != 0 {
		event.Protocol = e.Packet.ProtocolName()
	}
	if e.Packet.Destination != [16]byte{} {
		event.Peer = e.Packet.To()
	}
	if e.Error != 0 {
		event.Errno = unix.ErrnoName(unix.Errno(e.Error))
	}
	return event
}
