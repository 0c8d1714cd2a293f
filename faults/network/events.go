package network

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// packetEvent is struct fl_event.
type packetEvent struct {
	Time   uint64
	Cgroup uint64
	Packet events.Packet
	Length uint32
	Egress uint32
	_      [4]uint8
}

var decodeEvent = events.Decoder((*packetEvent).event)

func (e *packetEvent) event() *v1.Event {
	event := &v1.Event{
		Time:     events.At(e.Time),
		What:     "ingress",
		Local:    e.Packet.To(),
		Peer:     e.Packet.From(),
		Protocol: e.Packet.ProtocolName(),
		Bytes:    e.Length,
		CgroupId: e.Cgroup,
	}
	if e.Egress != 0 {
		event.What = "egress"
		event.Local, event.Peer = event.Peer, event.Local
	}
	return event
}
