package network

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/bpf/tc"
	"faultline.dev/faultline/faults/fault"
)

// Limits and marks of bpf/include/decision.h.
const (
	faultsMax  = 16
	packetBits = 10
	markRun    = ^uint32(1<<15 - 1)
)

// wire is what the network faults of a run have in common: its marks, and what
// was decided about each packet that has one.
type wire struct {
	// run is the part of the marks that says whose they are.
	run uint32
	// decisions and done are fl_decisions and fl_done.
	decisions, done *ebpf.Map

	mu    sync.Mutex
	taken [faultsMax]bool
	held  map[holder]time.Duration
}

// holder is a fault that holds packets of one direction.
type holder struct {
	number   uint32
	received bool
}

// family is the wire's name among the run's commons.
const family = "network"

// commonWire returns the run's wire, which open makes when there is none yet.
func commonWire(rec fault.Recorder, open func() (*wire, error)) (*wire, error) {
	common, err := rec.Commons().Of(family, func() (io.Closer, error) { return open() })
	if err != nil {
		return nil, err
	}
	return common.(*wire), nil
}

// newWire draws the run's marks and makes the maps.
func newWire() (_ *wire, err error) {
	w := &wire{held: map[holder]time.Duration{}}
	for w.run == 0 {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("drawing a mark: %w", err)
		}
		w.run = binary.NativeEndian.Uint32(b[:]) & markRun
	}
	spec, err := compiled(hookPrograms)
	if err != nil {
		return nil, err
	}
	if w.decisions, err = ebpf.NewMap(spec.Maps[tc.ObjectsMapFlDecisions]); err != nil {
		return nil, fmt.Errorf("making the table of decisions: %w", err)
	}
	if w.done, err = ebpf.NewMap(spec.Maps[tc.ObjectsMapFlDone]); err != nil {
		return nil, errors.Join(fmt.Errorf("making the table of counters: %w", err), w.decisions.Close())
	}
	return w, nil
}

// maps are shared with the programs of each fault.
func (w *wire) maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{tc.ObjectsMapFlDecisions: w.decisions, tc.ObjectsMapFlDone: w.done}
}

// join takes the lowest number that no fault of the run has.
func (w *wire) join() (number uint32, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for number := range w.taken {
		if !w.taken[number] {
			w.taken[number] = true
			return uint32(number), w.forget(uint32(number))
		}
	}
	return 0, fmt.Errorf("a run can have %d network faults at a time", faultsMax)
}

// forget clears what an earlier fault with the number has counted.
func (w *wire) forget(number uint32) error {
	zeros := make([]uint64, ebpf.MustPossibleCPU())
	if err := w.done.Put(number, zeros); err != nil {
		return fmt.Errorf("clearing a counter: %w", err)
	}
	return nil
}

// joinAs takes a number that a fault has got from an earlier process.
func (w *wire) joinAs(number uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if number >= faultsMax || w.taken[number] {
		return fmt.Errorf("number %d of the run's network faults is not free", number)
	}
	w.taken[number] = true
	return nil
}

func (w *wire) leave(number uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken[number] = false
	delete(w.held, holder{number, true})
	delete(w.held, holder{number, false})
}

// holds notes how long a fault holds packets at the most, and returns how long
// one is held that all faults so far hold in its direction: there it waits once,
// for all of them.
func (w *wire) holds(h holder, longest time.Duration) (all time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[h] = longest
	for other, one := range w.held {
		if other.received == h.received {
			all += one
		}
	}
	return all
}

// count is how many packets were hit at the interfaces for a fault.
func (w *wire) count(number uint32) (sum uint64, err error) {
	var perCPU []uint64
	if err := w.done.Lookup(number, &perCPU); err != nil {
		return 0, fmt.Errorf("reading counters: %w", err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// Close implements io.Closer.
func (w *wire) Close() error { return errors.Join(w.decisions.Close(), w.done.Close()) }
