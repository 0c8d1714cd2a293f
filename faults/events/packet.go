package events

import (
	"fmt"
	"net/netip"
)

// Packet is struct fl_packet of bpf/include/packet.h.
type Packet struct {
	Source          [16]byte
	Destination     [16]byte
	SourcePort      uint16
	DestinationPort uint16
	Protocol        uint8
	TCPFlags        uint8
	LaterFragment   uint8
	// Family is 4 or 6; 0: no packet of IP.
	Family    uint8
	Transport uint16
	Fragment  uint16
}

// From is the source as people write it; the port is left out where there is none.
func (p *Packet) From() string { return endpoint(p.Source, p.SourcePort) }

// To is the destination.
func (p *Packet) To() string { return endpoint(p.Destination, p.DestinationPort) }

func endpoint(address [16]byte, port uint16) string {
	addr := netip.AddrFrom16(address).Unmap()
	if port == 0 {
		return addr.String()
	}
	return netip.AddrPortFrom(addr, port).String()
}

// ProtocolName is the name of its protocol, or the number.
func (p *Packet) ProtocolName() string {
	switch p.Protocol {
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	default:
		return fmt.Sprint(p.Protocol)
	}
}
