// Package trace counts the system calls of a target, so that a person can choose what to
// let fail. It changes nothing, and ends with the process.
package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	bpf "faultline.dev/faultline/bpf/trace"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/faults/tracing"
)

// lease is how long counting goes on without us, and renewal how often we say that we
// are there.
const (
	lease   = 10 * time.Second
	renewal = time.Second
)

// Options say what is counted.
type Options struct {
	Cgroups []fault.Cgroup
	// Calls are those that are wanted, by name; nil for all.
	Calls []string
	// Paths: the paths that calls are given are counted too.
	Paths bool
	// Duration is how long it counts; 0 until the context ends.
	Duration time.Duration
	// Progress is told about once a second how many calls there were. It may be nil.
	Progress func(calls uint64)
}

// config is struct fl_trace_config.
type config struct {
	Target    tracing.Target
	Number    uint32
	Arguments [6]uint32
	Compat    uint32
	Bit       uint32
	_         uint32
}

// call and path are struct fl_call and fl_path.
type (
	call struct{ Number, Error, Compat uint32 }
	path struct {
		Number, Error uint32
		Path          [240]byte
	}
)

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	for _, name := range o.Calls {
		if _, ok := syscall.Number(name); !ok {
			return fmt.Errorf("%q is no system call of %s", name, runtime.GOARCH)
		}
	}
	return nil
}

// Run counts until its time is over, or ctx ends. The error is fault.ErrUnavailable where the kernel does not
// let programs look at calls.
func Run(ctx context.Context, o Options) (*v1.Trace, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	f, err := program(o.Cgroups)
	if err != nil {
		return nil, err
	}
	if _, err := f.Prune("trace", "raw_tracepoint"); err != nil {
		return nil, err
	}
	var maps map[string]*ebpf.Map
	f.Keep = func(_ context.Context, all map[string]*ebpf.Map) error {
		maps = all
		return wantPaths(all[bpf.ObjectsMapFlPathArguments], o)
	}
	injection, err := f.Inject(ctx, recorder{})
	if err != nil {
		return nil, err
	}
	trace, err := follow(ctx, injection, maps, o)
	return trace, errors.Join(err, injection.Revert(context.WithoutCancel(ctx)))
}

// recorder is for what leaves nothing to be undone, and whose state nobody compares.
type recorder struct{ fault.Recorder }

// Watch implements fault.Recorder.
func (recorder) Watch(fault.Watch) error { return nil }

func program(cgroups []fault.Cgroup) (*tracing.Fault, error) {
	abi, ok := kernel.Syscalls()
	if !ok {
		return nil, fmt.Errorf("trace is %w: the system calls of this architecture are not known", fault.ErrUnavailable)
	}
	c := config{Number: abi.Number, Arguments: abi.Arguments, Bit: abi.CompatBit}
	var err error
	if c.Target, err = tracing.TargetOf(cgroups); err != nil {
		return nil, err
	}
	if err := kernel.Offsets(map[string]*uint32{abi.Compat: &c.Compat}); err != nil {
		return nil, fmt.Errorf("trace is %w: %s", fault.ErrUnavailable, kernel.AnswerOf(err).Reason)
	}
	spec, err := bpf.LoadObjects()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpf.ObjectsVarFlTraceConfig].Set(c); err != nil {
		return nil, fmt.Errorf("configuring programs: %w", err)
	}
	hook := tracing.Hook{Function: "sys_exit", Program: bpf.ObjectsProgFlSysExit, Name: "sys_exit"}
	return &tracing.Fault{Spec: spec, Cgroups: cgroups, Hooks: []tracing.Hook{hook}}, nil
}

// gone are calls whose path is not there any more when they return: the program that gave it.
var gone = map[string]bool{"execve": true, "execveat": true}

// wantPaths tells the program which calls have a path that is wanted.
func wantPaths(arguments *ebpf.Map, o Options) error {
	if !o.Paths {
		return nil
	}
	for name, indexes := range syscall.CallsWithPaths() {
		if gone[name] {
			continue
		}
		number, ok := syscall.Number(name)
		if !ok || !wanted(o, name) {
			continue
		}
		if err := arguments.Put(number, indexes[0]+1); err != nil {
			return fmt.Errorf("writing a call with a path: %w", err)
		}
	}
	return nil
}

func wanted(o Options, name string) bool { return len(o.Calls) == 0 || slices.Contains(o.Calls, name) }

// follow counts until its time is over, or ctx ends.
func follow(ctx context.Context, injection fault.Injection, maps map[string]*ebpf.Map, o Options) (*v1.Trace, error) {
	start := time.Now()
	next := func() fault.Lease { return fault.Lease{Deadline: fault.BootTime() + uint64(lease)} }
	if err := injection.Start(next()); err != nil {
		return nil, err
	}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	ticker := time.NewTicker(renewal)
	defer ticker.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-ticker.C:
			if err := injection.Renew(next()); err != nil {
				return nil, err
			}
			if o.Progress == nil {
				continue
			}
			counters, err := injection.Counters()
			if err != nil {
				return nil, err
			}
			o.Progress(counters.Matched)
		}
	}
	// Nothing is counted any more while it is read.
	if err := injection.Renew(fault.Lease{}); err != nil {
		return nil, err
	}
	counters, err := injection.Counters()
	if err != nil {
		return nil, err
	}
	trace := &v1.Trace{Duration: durationpb.New(time.Since(start)), Total: counters.Matched, Uncounted: counters.Missed}
	return trace, errors.Join(readCalls(maps[bpf.ObjectsMapFlCalls], o, trace), readPaths(maps[bpf.ObjectsMapFlPaths], trace))
}

func readCalls(from *ebpf.Map, o Options, trace *v1.Trace) error {
	abi, _ := kernel.Syscalls()
	type row struct {
		name   string
		compat bool
	}
	rows := map[row]*v1.CallCount{}
	var key call
	var perCPU []uint64
	entries := from.Iterate()
	for entries.Next(&key, &perCPU) {
		arch := runtime.GOARCH
		if key.Compat != 0 {
			arch = abi.Arch32
		}
		r := row{syscall.Name(arch, key.Number), key.Compat != 0}
		if !wanted(o, r.name) {
			continue
		}
		if rows[r] == nil {
			rows[r] = &v1.CallCount{Call: r.name, Compat: r.compat}
			trace.Calls = append(trace.Calls, rows[r])
		}
		n := sum(perCPU)
		rows[r].Count += n
		if key.Error != 0 {
			rows[r].Failed += n
			rows[r].Errnos = append(rows[r].Errnos, &v1.ErrnoCount{Errno: errnoName(key.Error), Count: n})
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading the calls: %w", err)
	}
	for _, c := range trace.GetCalls() {
		slices.SortFunc(c.GetErrnos(), func(a, b *v1.ErrnoCount) int {
			return cmp.Or(cmp.Compare(b.GetCount(), a.GetCount()), cmp.Compare(a.GetErrno(), b.GetErrno()))
		})
	}
	slices.SortFunc(trace.GetCalls(), func(a, b *v1.CallCount) int {
		return cmp.Or(cmp.Compare(b.GetCount(), a.GetCount()), cmp.Compare(a.GetCall(), b.GetCall()))
	})
	return nil
}

func readPaths(from *ebpf.Map, trace *v1.Trace) error {
	type row struct{ call, path string }
	rows := map[row]*v1.PathCount{}
	var key path
	var perCPU []uint64
	entries := from.Iterate()
	for entries.Next(&key, &perCPU) {
		r := row{syscall.Name(runtime.GOARCH, key.Number), unix.ByteSliceToString(key.Path[:])}
		if r.path == "" {
			continue // a descriptor alone (AT_EMPTY_PATH)
		}
		if rows[r] == nil {
			rows[r] = &v1.PathCount{Call: r.call, Path: r.path}
			trace.Paths = append(trace.Paths, rows[r])
		}
		n := sum(perCPU)
		rows[r].Count += n
		if key.Error != 0 {
			rows[r].Failed += n
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading the paths: %w", err)
	}
	slices.SortFunc(trace.GetPaths(), func(a, b *v1.PathCount) int {
		return cmp.Or(cmp.Compare(b.GetCount(), a.GetCount()), cmp.Compare(a.GetPath(), b.GetPath()), cmp.Compare(a.GetCall(), b.GetCall()))
	})
	return nil
}

func sum(perCPU []uint64) (n uint64) {
	for _, one := range perCPU {
		n += one
	}
	return n
}

// restarts are what the kernel answers itself and a program never sees
// (linux/errno.h): the call is made again after a signal, or fails with EINTR.
var restarts = map[uint32]string{512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}

func errnoName(number uint32) string {
	return cmp.Or(unix.ErrnoName(unix.Errno(number)), restarts[number], fmt.Sprintf("errno %d", number))
}
