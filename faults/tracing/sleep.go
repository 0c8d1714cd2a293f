package tracing

import (
	"context"
	"errors"
	"fmt"
	"runtime"

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
	flagsVariable   = "fl_task_flags"
	sleepProgram    = "fl_sleep"
	sleepLSMProgram = "fl_lsm_sleep"
	laterProgram    = "fl_sleep_later"
)

// The mechanisms of delays.
const (
	MechanismSleepableModify = "sleepable_fmod_ret"
	MechanismSleepableLSM    = "sleepable_lsm"
	MechanismTaskWork        = "task_work"
)

const (
	// wantedSleepers is how many tasks may wait at one moment at a function.
	wantedSleepers = 64
	// A task that sleeps in a program stays on its CPU, where the next one needs
	// another lane; they are not spread evenly. Others want some room in the trampoline.
	lanesMin = 8
	lanesMax = trampolineMax - lanes
)

func (h Hook) lanes() int {
	if h.Only32 {
		return lanesMin // few processes are left that have them
	}
	return min(max((2*wantedSleepers+runtime.NumCPU()-1)/runtime.NumCPU(), lanesMin), lanesMax)
}

// Slept are the hooks in the place of one whose Program, a probe, decides how long calls
// of its function wait: behind it they do.
func (h Hook) Slept() []Hook { return h.behind(sleepProgram, h.lanes()) }

// SleptAtReturn are the hooks in the place of one whose Program, a probe, decides how long
// calls wait: they do when they return to user space.
func (h Hook) SleptAtReturn() []Hook { return h.behind(laterProgram, lanes) }

// SleptAtSecurityHooks are programs by which calls wait where the kernel asks its security
// modules (MechanismSleepableLSM), or later, when what asked returns (MechanismTaskWork).
// The kernel runs such programs for all who sleep in them: they need no lanes.
func SleptAtSecurityHooks(mechanism string, hooks []SecurityHook) (list []Hook, err error) {
	if mechanism == MechanismTaskWork {
		found, err := find(mechanism, securityPrefix, hooks)
		for _, at := range found {
			list = append(list, at.Probed(at.shape, at.config).SleptAtReturn()...)
		}
		return list, err
	}
	found, err := find(mechanism, lsmPrefix, hooks)
	for _, at := range found {
		wait, decide := at.Hook, at.Probed(at.shape, at.config)
		wait.Program = sleepLSMProgram
		decide.Function, decide.ID = securityPrefix+at.Name, 0
		list = append(list, wait, decide)
	}
	return list, err
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
	if err := errors.Join(f.Spec.Variables[sleeperVariable].Set(w.Config()), f.tellFlags()); err != nil {
		w.close()
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	return w, nil
}

// tellFlags tells the programs where the kernel has a task's flags.
func (f *Fault) tellFlags() error {
	variable := f.Spec.Variables[flagsVariable]
	if variable == nil {
		return nil // none waits at a return
	}
	var offset uint32
	if err := kernel.Offsets(map[string]*uint32{"task_struct.flags": &offset}); err != nil {
		return err
	}
	return variable.Set(offset)
}

// maps are those that are there already.
func (w *wakeful) shared() map[string]*ebpf.Map {
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
