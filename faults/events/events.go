// Package events reads the samples of what programs have hit.
package events

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// kept is how many events wait to be drained at the most.
const kept = 256

// Sampler reads a ring buffer in the background.
type Sampler struct {
	reader *ringbuf.Reader
	decode func([]byte) *v1.Event
	done   chan struct{}

	mu   sync.Mutex
	kept []*v1.Event
	// closing: what comes when kept is full ends the reader.
	closing bool
}

// Read begins to read. decode gets what a program has written, and returns nil
// for what is no event.
func Read(ring *ebpf.Map, decode func([]byte) *v1.Event) (*Sampler, error) {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, fmt.Errorf("opening events: %w", err)
	}
	s := &Sampler{reader: reader, decode: decode, done: make(chan struct{})}
	go s.read()
	return s, nil
}

func (s *Sampler) read() {
	defer close(s.done)
	var record ringbuf.Record
	for {
		if err := s.reader.ReadInto(&record); err != nil {
			return // flushed or closed
		}
		event := s.decode(record.RawSample)
		if event == nil {
			continue
		}
		s.mu.Lock()
		if len(s.kept) < kept {
			s.kept = append(s.kept, event)
		}
		ended := s.closing && len(s.kept) == kept
		s.mu.Unlock()
		if ended {
			return // a program that still writes must not hold Close up
		}
	}
}

// Drain returns the events since the last call.
func (s *Sampler) Drain() []*v1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.kept
	s.kept = nil
	return events
}

// Close ends the reader once it has read what the programs wrote before; that
// can still be drained. It may be called again.
func (s *Sampler) Close() error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	if s.reader.Flush() == nil {
		<-s.done
	}
	err := s.reader.Close()
	<-s.done
	if errors.Is(err, ringbuf.ErrClosed) {
		return nil
	}
	return err
}

// Decoder makes events of what a program writes as a struct T.
func Decoder[T any](event func(*T) *v1.Event) func([]byte) *v1.Event {
	return func(sample []byte) *v1.Event {
		var raw T
		if binary.Read(bytes.NewReader(sample), binary.NativeEndian, &raw) != nil {
			return nil
		}
		return event(&raw)
	}
}

// At is the wall-clock time of a moment of CLOCK_BOOTTIME in nanoseconds.
func At(boot uint64) *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(-time.Duration(fault.BootTime() - boot)))
}
