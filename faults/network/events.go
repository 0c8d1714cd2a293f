package network

import (
	"fmt"
	"net/netip"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/events"
)

// packetEvent is struct fl_event.
type packetEvent struct {
	Time        uint64
	Cgroup      uint64
	Source      [16]byte
	Destination [16]byte
	SourcePort  uint16
	DestPort    uint16
	Protocol    uint8
	TCPFlags    uint8
	_           [6]uint8
	Length      uint32
	Egress      uint32
	_           [4]uint8
}

var decodeEvent = events.Decoder((*packetEvent).event)

func (e *packetEvent) event() *v1.Event {
	source := netip.AddrPortFrom(netip.AddrFrom16(e.Source).Unmap(), e.SourcePort)
	destination := netip.AddrPortFrom(netip.AddrFrom16(e.Destination).Unmap(), e.DestPort)
	event := &v1.Event{
		Time:     events.At(e.Time),
		What:     "ingress",
		Local:    endpoint(destination),
		Peer:     endpoint(source),
		Protocol: protocolName(e.Protocol),
		Bytes:    e.Length,
		CgroupId: e.Cgroup,
	}
	if e.Egress != 0 {
		event.What = "egress"
		event.Local, event.Peer = event.Peer, event.Local
	}
	return event
}

// endpoint leaves out the port of protocols that have none.
func endpoint(address netip.AddrPort) string {
	if address.Port() == 0 {
		return address.Addr().String()
	}
	return address.String()
}

func protocolName(number uint8) string {
	switch number {
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	default:
		return fmt.Sprint(number)
	}
}
