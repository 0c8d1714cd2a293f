package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// eventsKept is how many sampled events wait to be drained at the most.
const eventsKept = 256

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

// sampler reads sampled packets in the background.
type sampler struct {
	reader *ringbuf.Reader
	done   chan struct{}

	mu   sync.Mutex
	kept []*v1.Event
}

func newSampler(ring *ebpf.Map) (*sampler, error) {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, fmt.Errorf("opening events: %w", err)
	}
	s := &sampler{reader: reader, done: make(chan struct{})}
	go s.read()
	return s, nil
}

func (s *sampler) read() {
	defer close(s.done)
	var record ringbuf.Record
	for {
		if err := s.reader.ReadInto(&record); err != nil {
			return // closed
		}
		var raw packetEvent
		if binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw) != nil {
			continue
		}
		s.mu.Lock()
		if len(s.kept) < eventsKept {
			s.kept = append(s.kept, raw.event())
		}
		s.mu.Unlock()
	}
}

func (s *sampler) drain() []*v1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.kept
	s.kept = nil
	return events
}

// close ends the reader; what it has read can still be drained. It may be
// called again.
func (s *sampler) close() error {
	err := s.reader.Close()
	<-s.done
	if errors.Is(err, ringbuf.ErrClosed) {
		return nil
	}
	return err
}

func (e *packetEvent) event() *v1.Event {
	source := netip.AddrPortFrom(netip.AddrFrom16(e.Source).Unmap(), e.SourcePort)
	destination := netip.AddrPortFrom(netip.AddrFrom16(e.Destination).Unmap(), e.DestPort)
	event := &v1.Event{
		Time:     timestamppb.New(time.Now().Add(-time.Duration(fault.BootTime() - e.Time))),
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
