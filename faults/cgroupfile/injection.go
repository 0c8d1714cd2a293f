package cgroupfile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// injection is an active fault. Its journal records are what ends it: the files
// have no lease.
type injection struct {
	fault    *Fault
	log      *slog.Logger
	settings []setting
	started  bool
	// counted is by the ids of Fault.Count, which are the same for targets that
	// lie in each other.
	counted map[uint64]count
	// final are the counters of a fault that has ended.
	final *fault.Counters
}

// setting is a Setting with its record.
type setting struct {
	Setting
	undone fault.Undone
	// told is what Refresh has said of it.
	told string
}

// count is the first and the last value of a counter.
type count struct{ base, last fault.Counters }

// inject writes the records down. The files are as they were before.
func (f *Fault) inject(ctx context.Context, req fault.Request, rec fault.Recorder) (fault.Injection, error) {
	in := &injection{fault: f, log: req.Log, counted: map[uint64]count{}}
	for _, cgroup := range req.Cgroups {
		if err := in.record(cgroup, req.CgroupRoot, rec); err != nil {
			return nil, errors.Join(err, in.Revert(context.WithoutCancel(ctx)))
		}
	}
	return in, nil
}

func (in *injection) record(c fault.Cgroup, root string, rec fault.Recorder) error {
	s, _, err := in.fault.setting(c, root)
	if err != nil {
		return err
	}
	if err := rec.Watch(watch{s}); err != nil {
		return err
	}
	undone, err := rec.Record(s)
	if err != nil {
		return err
	}
	in.settings = append(in.settings, setting{Setting: s, undone: undone})
	return nil
}

// atOnce is how many files are written at the same time.
const atOnce = 16

// Start implements fault.Injection. It takes half the lease at the most: until
// then the engine has to renew those of other faults.
func (in *injection) Start(lease fault.Lease) error {
	now := fault.BootTime()
	limit := time.Now().Add(time.Duration(lease.Deadline-min(now, lease.Deadline)) / 2)
	if _, err := in.count(true); err != nil {
		return err
	}
	in.started = true
	if err := in.each(func(s Setting) error { return s.begin(limit) }); err != nil {
		return err
	}
	if in.fault.Settle != nil {
		if err := in.each(func(s Setting) error { return in.settle(s, limit) }); err != nil {
			return err
		}
	}
	_, err := in.count(false)
	return err
}

func (in *injection) settle(s Setting, limit time.Time) error {
	dir, err := Open(s.Cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	return in.fault.Settle(s.Cgroup, dir, limit)
}

// each calls fn for the settings, several at a time, and returns all errors.
func (in *injection) each(fn func(Setting) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	errs := make([]error, len(in.settings))
	for i, s := range in.settings {
		group.Go(func() error {
			errs[i] = fn(s.Setting)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// Renew implements fault.Injection. There is no lease in these files: when
// nobody renews it any more, the guard process undoes the records.
func (in *injection) Renew(fault.Lease) error { return nil }

// Refresh implements fault.Injection: it tells once of each value that is not
// ours any more.
func (in *injection) Refresh(context.Context) error {
	var errs []error
	for i := range in.settings {
		s := &in.settings[i]
		text := ""
		err := s.look()
		if err != nil {
			text = err.Error()
		}
		if text != s.told {
			errs = append(errs, err)
		}
		s.told = text
	}
	return errors.Join(errs...)
}

// Counters implements fault.Injection.
func (in *injection) Counters() (fault.Counters, error) {
	switch {
	case in.final != nil:
		return *in.final, nil
	case !in.started:
		return fault.Counters{}, nil
	}
	return in.count(false)
}

// count reads the counters; the first time they are the base. Cgroups,
// processes and whatever else is gone keeps its last value.
func (in *injection) count(first bool) (sum fault.Counters, err error) {
	var errs []error
	for _, s := range in.settings {
		now, err := in.read(s.Cgroup)
		if err != nil && !errors.Is(err, fault.ErrGone) && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("reading counters of cgroup %s: %w", s.Cgroup.Path, err))
		}
		for id, value := range now {
			c := in.counted[id]
			if first {
				c.base = value
			}
			// What was hit stays so, also when it is read again while it ends.
			if value.Injected >= c.last.Injected {
				c.last = value
			}
			in.counted[id] = c
		}
	}
	for _, c := range in.counted {
		sum.Matched += c.last.Matched - c.base.Matched
		sum.Injected += c.last.Injected - c.base.Injected
		sum.Missed += c.last.Missed - c.base.Missed
	}
	return sum, errors.Join(errs...)
}

func (in *injection) read(c fault.Cgroup) (map[uint64]fault.Counters, error) {
	dir, err := Open(c)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return in.fault.Count(c, dir)
}

// Events implements fault.Injection: the kernel tells of none.
func (in *injection) Events() []*v1.Event { return nil }

// Revert implements fault.Injection.
func (in *injection) Revert(ctx context.Context) error {
	running := in.started && in.final == nil
	if running {
		// What stands still can be counted only now, what the kernel counts
		// by itself goes on until the limit is gone.
		in.countLast()
	}
	var errs []error
	var open []setting
	for _, s := range slices.Backward(in.settings) {
		if err := in.end(ctx, s); err != nil {
			errs = append(errs, err)
			open = append(open, s)
		}
	}
	if running {
		in.final = new(in.countLast())
	}
	slices.Reverse(open)
	in.settings = open
	return errors.Join(errs...)
}

func (in *injection) countLast() fault.Counters {
	counters, err := in.count(false)
	if err != nil {
		in.log.Warn("the last counters are missing", "fault", in.fault.Kind.Name, "error", err)
	}
	return counters
}

func (in *injection) end(ctx context.Context, s setting) error {
	if in.started {
		if err := s.look(); errors.Is(err, errNotOurs) {
			in.log.Warn("a value is not restored", "fault", in.fault.Kind.Name, "error", err)
		}
	}
	if err := s.undone.Undo(ctx); err != nil {
		return err
	}
	if s.look() == nil {
		return fmt.Errorf("%s of cgroup %s still holds %q after it was restored", s.File, s.Cgroup.Path, s.Written)
	}
	return nil
}
