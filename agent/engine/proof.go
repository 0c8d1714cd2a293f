package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"faultline.dev/faultline/faults/fault"
)

// proof keeps the state of what faults touch, as it was before, and says what
// is different afterwards.
type proof struct {
	mu     sync.Mutex
	before []watched
	// known are the states that an earlier process of the run has taken.
	known map[string][]string
}

type watched struct {
	watch fault.Watch
	lines []string
}

// watch takes the first snapshot of an object; it must be called before the
// object is touched.
func (p *proof) watch(w fault.Watch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.before, func(b watched) bool { return b.watch.Key() == w.Key() }) {
		return nil
	}
	lines, known := p.known[w.Key()]
	if !known {
		var err error
		if lines, err = w.State(); err != nil {
			return fmt.Errorf("taking the state before: %w", err)
		}
	}
	p.before = append(p.before, watched{w, lines})
	return nil
}

// states returns what was taken, by the keys of the watches.
func (p *proof) states() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	states := map[string][]string{}
	for _, b := range p.before {
		states[b.watch.Key()] = b.lines
	}
	return states
}

// differences compares what was watched since the last time. An object that is
// gone has nothing left of us.
func (p *proof) differences() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	defer func() { p.before, p.known = nil, nil }()
	for _, b := range p.before {
		lines, err := b.watch.State()
		if errors.Is(err, fault.ErrGone) {
			continue
		}
		if err != nil {
			list = append(list, fmt.Sprintf("%s: can't be compared: %v", b.watch.Key(), err))
			continue
		}
		for _, difference := range b.watch.Differences(b.lines, lines) {
			list = append(list, fmt.Sprintf("%s: %s", b.watch.Key(), difference))
		}
	}
	return list
}
