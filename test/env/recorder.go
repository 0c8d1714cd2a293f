//go:build linux

package env

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"faultline.dev/faultline/faults/fault"
)

// Recorder is a journal and a proof in memory, for faults that are injected
// without an engine. It is a fault.Recorder.
type Recorder struct {
	// Run is shared by the faults that are to be of one run; nil for a fault
	// that is alone in its run.
	Run *fault.Commons

	mu      sync.Mutex
	records []*record
	watches []watched
}

type record struct {
	recorder *Recorder
	undo     fault.Undo
	closed   bool
}

type watched struct {
	watch  fault.Watch
	before []string
}

// Record implements fault.Recorder.
func (r *Recorder) Record(undo fault.Undo) (fault.Undone, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := &record{recorder: r, undo: undo}
	r.records = append(r.records, one)
	return one, nil
}

// Undo implements fault.Undone.
func (o *record) Undo(ctx context.Context) error {
	if err := o.undo.Undo(ctx); err != nil {
		return err
	}
	o.recorder.mu.Lock()
	defer o.recorder.mu.Unlock()
	o.closed = true
	return nil
}

// Watch implements fault.Recorder.
func (r *Recorder) Watch(watch fault.Watch) error {
	lines, err := watch.State()
	r.watches = append(r.watches, watched{watch, lines})
	return err
}

// PinDir implements fault.Recorder.
func (r *Recorder) PinDir() string { return "" }

// Commons implements fault.Recorder.
func (r *Recorder) Commons() *fault.Commons {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Run == nil {
		r.Run = &fault.Commons{}
	}
	return r.Run
}

// Open lists the undos that were recorded and not run.
func (r *Recorder) Open() (list []fault.Undo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.records {
		if !one.closed {
			list = append(list, one.undo)
		}
	}
	return list
}

// Forget ends the watch: the test has changed what was watched.
func (r *Recorder) Forget() { r.watches = nil }

// Differences compares what was watched with what it was, as the engine does.
func (r *Recorder) Differences() (list []string, err error) {
	for _, w := range r.watches {
		after, stateErr := w.watch.State()
		if errors.Is(stateErr, fault.ErrGone) {
			continue
		}
		err = errors.Join(err, stateErr)
		for _, difference := range w.watch.Differences(w.before, after) {
			list = append(list, fmt.Sprintf("%s: %s", w.watch.Key(), difference))
		}
	}
	return list, err
}
