package tracing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/sleeper"
)

// What bpf/include/sleep.h and delayed.h have.
const (
	sleepsMap       = "fl_sleeps"
	sleeperVariable = "fl_sleeper"
	sleepProgram    = "fl_sleep"
	sleepLSMProgram = "fl_lsm_sleep"
)

const (
	// wantedSleepers is how many tasks may wait at one moment at a function.
	wantedSleepers = 64
	// A task that sleeps in a program stays on its CPU, where the next one needs
	// another lane; they are not spread evenly. A trampoline has room for 38 programs
	// (BPF_MAX_TRAMP_LINKS), of which others want some.
	lanesMin = 8
	lanesMax = 34
)

func (h Hook) lanes() int {
	if h.Only32 {
		return lanesMin // few processes are left that have them
	}
	return min(max((2*wantedSleepers+runtime.NumCPU()-1)/runtime.NumCPU(), lanesMin), lanesMax)
}

// Slept are the hooks in the place of one whose Program, a probe, decides how long calls
// of its function wait: behind it they do.
func (h Hook) Slept() []Hook {
	wait, decide := h, h
	wait.Program, wait.Variables = sleepProgram, nil
	decide.ID = 0
	return append(slices.Repeat([]Hook{wait}, h.lanes()), decide)
}

// SleptAtSecurityHooks are programs by which calls wait where the kernel asks its security
// modules; the probes are of a program that decides there. The kernel runs such programs
// for all who sleep in them: they need no lanes.
func SleptAtSecurityHooks(program string, hooks []SecurityHook) (list []Hook, err error) {
	waits, err := AtSecurityHooks(MechanismLSM, hooks)
	if err != nil {
		return nil, err
	}
	for _, wait := range waits {
		decide := wait
		decide.Function, decide.ID, decide.Program = securityPrefix+wait.Name, 0, program
		wait.Program, wait.Variables = sleepLSMProgram, nil
		list = append(list, wait, decide)
	}
	return list, nil
}

// wakeful is what an injection sleeps by; nil for faults that don't.
type wakeful struct {
	*sleeper.Sleeper
	times *ebpf.Map
}

// prepareSleep starts it, and tells the programs.
func (f *Fault) prepareSleep(ctx context.Context) (w *wakeful, err error) {
	spec := f.Spec.Maps[sleepsMap]
	if spec == nil {
		return nil, nil
	}
	w = &wakeful{}
	if w.times, err = ebpf.NewMap(spec); err != nil {
		return nil, fmt.Errorf("making the map of sleepers: %w", err)
	}
	if w.Sleeper, err = sleeper.Start(ctx, w.times); err != nil {
		return nil, errors.Join(err, w.times.Close())
	}
	if err := f.Spec.Variables[sleeperVariable].Set(w.Config()); err != nil {
		w.close()
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	return w, nil
}

// maps are those that are there already.
func (w *wakeful) maps() map[string]*ebpf.Map {
	if w == nil {
		return nil
	}
	return map[string]*ebpf.Map{sleepsMap: w.times}
}

// renew keeps sleepers asleep until the lease is over; without one they wake at once.
func (w *wakeful) renew(l fault.Lease) error {
	if w == nil {
		return nil
	}
	if l.Deadline == 0 {
		w.Wake()
		return nil
	}
	return w.Lease(l.Deadline)
}

func (w *wakeful) close() {
	if w == nil {
		return
	}
	w.Close()
	_ = w.times.Close() // it may be closed with the other maps
}

// detach closes links side by side: the kernel waits for all that run in sleepable
// programs before it lets go of one. It returns those that are still there.
func (in *injection) detach() error {
	var group errgroup.Group
	errs := make([]error, len(in.links))
	for i, l := range in.links {
		group.Go(func() error {
			errs[i] = l.Close()
			return nil
		})
	}
	_ = group.Wait() // they are in errs
	open := in.links[:0]
	for i, l := range in.links {
		if errs[i] != nil {
			errs[i] = fmt.Errorf("detaching from a function of the kernel: %w", errs[i])
			open = append(open, l)
		}
	}
	in.links = open
	return errors.Join(errs...)
}

// SleepNeeds are what the kernel must have for programs that wait.
func SleepNeeds(others ...kernel.Capability) []kernel.Capability {
	return append(others, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE)
}
