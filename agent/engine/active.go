package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

const (
	// refreshInterval is the time between two looks at what has changed around
	// a fault.
	refreshInterval = time.Second
	// tick is the time between two readings of counters.
	tick = 250 * time.Millisecond
	// eventsKept is how many sampled events a result holds for each fault.
	eventsKept = 100
)

// active is one fault of a run, from the plan to the result.
type active struct {
	run       *run
	planned   *planned
	injection fault.Injection
	// ends is when the kernel ends the fault by itself, whatever happens here
	// (CLOCK_BOOTTIME, ns).
	ends uint64

	mu     sync.Mutex
	result *v1.FaultResult
	// renewed is the lease that the kernel holds.
	renewed  fault.Lease
	deadline time.Time
}

func newActive(r *run, p *planned) *active {
	return &active{run: r, planned: p, result: &v1.FaultResult{
		Name:      p.spec.GetName(),
		Fault:     p.kind.Name,
		Step:      p.step,
		Target:    p.target(),
		Mechanism: p.plan.Mechanism,
		State:     v1.FaultState_PENDING,
		Warnings:  p.plan.Warnings,
	}}
}

// inject puts the fault in place. After an error nothing of it is left, or the
// error says so.
func (a *active) inject(ctx context.Context) error {
	injection, err := a.planned.plan.Inject(ctx, a.run.recorder(a))
	if err != nil {
		return a.notInjected(err)
	}
	a.injection = injection
	failpoint.Hit(failpoint.Injected)
	return nil
}

// start lets the fault begin.
func (a *active) start() error {
	now := time.Now()
	a.ends = fault.BootTime() + uint64(a.planned.duration())
	lease := a.nextLease()
	// The guard first: there must be no moment in which it does not know of
	// a fault that goes on.
	if err := a.run.tellGuard(a, lease); err != nil {
		return a.notInjected(err)
	}
	if err := a.injection.Start(lease); err != nil {
		return a.notInjected(err)
	}
	failpoint.Hit(failpoint.Started)
	a.mu.Lock()
	a.renewed = lease
	defer a.mu.Unlock()
	a.deadline = now.Add(a.planned.duration())
	a.result.State = v1.FaultState_ACTIVE
	a.result.StartTime = timestamppb.New(now)
	return nil
}

func (a *active) notInjected(err error) error {
	err = fmt.Errorf("injecting %q: %w", a.planned.spec.GetName(), err)
	a.update(func(r *v1.FaultResult) {
		r.State = v1.FaultState_NOT_INJECTED
		r.Error = err.Error()
	})
	return err
}

// nextLease runs out at the end of the fault at the latest.
func (a *active) nextLease() fault.Lease {
	return fault.Lease{Deadline: min(fault.BootTime()+uint64(a.run.leaseTimeout()), a.ends)}
}

// hold keeps the fault alive until its time is over or ctx ends. The error says
// that the kernel ended the fault before.
func (a *active) hold(ctx context.Context) (err error) {
	ctx, cancel := context.WithDeadline(ctx, a.deadline)
	defer cancel()
	var refreshing sync.WaitGroup
	defer refreshing.Wait()
	// Looking names up takes as long as it takes; leases must not wait for it.
	refreshing.Go(func() {
		every(ctx, refreshInterval, func() {
			if err := a.injection.Refresh(ctx); err != nil && ctx.Err() == nil {
				a.warn(err)
			}
		})
	})
	every(ctx, tick, func() {
		if err = a.renew(); err != nil {
			cancel()
		}
		a.read()
	})
	return err
}

// renew moves the lease when a quarter of it is over. A fault whose lease ran
// out is never brought back: for who looked on it had ended.
func (a *active) renew() error {
	now, lease := fault.BootTime(), a.run.leaseTimeout()
	if a.renewed.Deadline == a.ends {
		return nil // it runs out when the fault ends
	}
	if now >= a.renewed.Deadline {
		return fmt.Errorf("the lease of %q ran out: nobody renewed it for %s", a.planned.spec.GetName(), lease)
	}
	if a.renewed.Deadline-now > uint64(lease/4*3) {
		return nil
	}
	next := a.nextLease()
	if err := a.run.tellGuard(a, next); err != nil {
		return errGuardDied
	}
	if err := a.injection.Renew(next); err != nil {
		a.warn(err)
		return nil
	}
	a.mu.Lock()
	a.renewed = next
	a.mu.Unlock()
	return a.run.save()
}

// every calls fn at the interval until ctx ends.
func every(ctx context.Context, interval time.Duration, fn func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fn()
		}
	}
}

// revert takes the fault back. It is not hurried by the end of the run.
func (a *active) revert(ctx context.Context) error {
	failpoint.Hit(failpoint.Held)
	// The guard leaves it to this process for another lease.
	_ = a.run.tellGuard(a, fault.Lease{Deadline: fault.BootTime() + uint64(a.run.leaseTimeout())})
	err := a.injection.Revert(context.WithoutCancel(ctx))
	failpoint.Hit(failpoint.Reverted)
	a.read()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.result.State = v1.FaultState_REVERT_FAILED
		a.result.Error = err.Error()
		return fmt.Errorf("reverting %q: %w", a.planned.spec.GetName(), err)
	}
	// A guard that is dead has nothing to forget.
	_ = a.run.tellGuard(a, fault.Lease{})
	switch a.result.GetState() {
	case v1.FaultState_ACTIVE:
		a.result.State = v1.FaultState_REVERTED
		a.result.EndTime = timestamppb.Now()
	case v1.FaultState_PENDING:
		// It was in place, and never began: a neighbour could not be injected.
		a.result.State = v1.FaultState_NOT_INJECTED
	}
	return nil
}

// read takes counters and events over into the result.
func (a *active) read() {
	counters, err := a.injection.Counters()
	if err != nil {
		a.warn(err)
	}
	events := a.injection.Events()
	a.update(func(r *v1.FaultResult) {
		if err == nil {
			r.Matched, r.Injected, r.Missed = counters.Matched, counters.Injected, counters.Missed
		}
		room := max(0, eventsKept-len(r.GetEvents()))
		r.Events = append(r.Events, events[:min(room, len(events))]...)
	})
}

// warn keeps and logs each message once.
func (a *active) warn(err error) {
	known := false
	a.update(func(r *v1.FaultResult) {
		if known = slices.Contains(r.GetWarnings(), err.Error()); !known {
			r.Warnings = append(r.Warnings, err.Error())
		}
	})
	if !known {
		a.run.engine.Log.Warn("fault goes on with a problem", "fault", a.planned.spec.GetName(), "error", err)
	}
}

func (a *active) update(fn func(*v1.FaultResult)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn(a.result)
}
