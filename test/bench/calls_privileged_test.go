//go:build linux && privileged

package bench_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/bench"
	"faultline.dev/faultline/test/env"
)

var (
	callRoundsFlag = flag.Int("call.rounds", 15, "rounds of calls")
	callTimesFlag  = flag.Int("call.times", 1000, "calls of one measurement")
)

// callPage is what is read at once, bytes.
const callPage = 4096

// call is a workload that makes system calls: "getppid 1000", "pread64 1000" or "openat
// 1000" of the file args[0]. It answers with the time that one took, in nanoseconds.
func call(in io.Reader, out *json.Encoder, args []string) error {
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	name, err := unix.BytePtrFromString(args[0])
	if err != nil {
		return err
	}
	page := make([]byte, callPage)
	calls := map[string]func(){
		"getppid": func() { _, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0) },
		"pread64": func() {
			_, _, _ = unix.RawSyscall6(unix.SYS_PREAD64, file.Fd(), uintptr(unsafe.Pointer(&page[0])), callPage, 0, 0, 0)
		},
		"openat": func() {
			fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(name)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
			if errno == 0 {
				_ = unix.Close(int(fd))
			}
		},
	}
	runtime.LockOSThread()
	return env.Serve(in, out, func(words []string) (any, error) {
		times, err := strconv.Atoi(words[1])
		if err != nil {
			return nil, err
		}
		one := calls[words[0]]
		start := time.Now()
		for range times {
			one()
		}
		return float64(time.Since(start).Nanoseconds()) / float64(times), nil
	})
}

// callVariant is one row: a call, and what is done to it.
type callVariant struct {
	call, name string
	// spec is a fault of the target; nil for none.
	spec *v1.Fault
	// strace traces the target.
	strace bool

	plan              *fault.Plan
	missing           string
	target, bystander []float64
}

// letGo decides about every call and never hits one.
func letGo(f *v1.Fault) *v1.Fault {
	f.Rate = &v1.Rate{Skip: proto.Uint64(1 << 60)}
	return f
}

func callVariants(file string) (list []*callVariant) {
	fails := func(mechanism, call string) *v1.Fault {
		return &v1.Fault{Mechanism: mechanism, Fault: &v1.Fault_SyscallError{SyscallError: &v1.SyscallError{Calls: []string{call}, Errno: "EIO"}}}
	}
	ofFile := func(mechanism, path string, o v1.FileOperation) *v1.Fault {
		return &v1.Fault{Mechanism: mechanism, Fault: &v1.Fault_FileError{FileError: &v1.FileError{
			Operations: []v1.FileOperation{o}, Path: path, Errno: "EIO",
		}}}
	}
	operations := map[string]v1.FileOperation{"pread64": v1.FileOperation_READ, "openat": v1.FileOperation_OPEN}
	for _, call := range []string{"getppid", "pread64", "openat"} {
		add := func(name string, spec *v1.Fault) {
			list = append(list, &callVariant{call: call, name: name, spec: spec})
		}
		add("nothing", nil)
		add("nothing, again", nil)
		add("syscallError of another call", letGo(fails("", "sethostname")))
		for _, mechanism := range []string{"fmod_ret", "kprobe_override"} {
			add("syscallError, "+mechanism+", let go", letGo(fails(mechanism, call)))
			add("syscallError, "+mechanism+", fails", fails(mechanism, call))
		}
		if o, ok := operations[call]; ok {
			for _, mechanism := range []string{"lsm", "fmod_ret_security"} {
				add("fileError, "+mechanism+", another path", ofFile(mechanism, "/nothing/**", o))
				add("fileError, "+mechanism+", let go", letGo(ofFile(mechanism, filepath.Dir(file)+"/**", o)))
				add("fileError, "+mechanism+", fails", ofFile(mechanism, filepath.Dir(file)+"/**", o))
			}
		}
		list = append(list, &callVariant{call: call, name: "strace --inject, let go", strace: true})
	}
	return list
}

// BenchmarkCalls compares what a system call costs the target of a fault and somebody
// else. Programs at functions of the kernel are met by everybody: each variant is put in
// place and taken back in each round.
func BenchmarkCalls(b *testing.B) {
	file := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, callPage), 0o600); err != nil {
		b.Fatal(err)
	}
	target, neighbour := env.Cgroup(b), env.Cgroup(b)
	inside, outside := env.Start(b, target, nil, "call", file), env.Start(b, neighbour, nil, "call", file)
	var ready string
	inside.Read(&ready)
	outside.Read(&ready)
	variants := callVariants(file)
	var active []*callVariant
	for _, v := range variants {
		if v.spec != nil {
			kind, err := faults.KindOf(v.spec)
			if err != nil {
				b.Fatal(err)
			}
			if v.plan, err = env.Plan(b, kind, v.spec, nil, target); err != nil {
				v.missing = strings.SplitN(err.Error(), "\n", 2)[0]
				continue
			}
		}
		active = append(active, v)
	}
	bench.Interleave(*callRoundsFlag, len(active), func(i int) {
		v := active[i]
		end := v.begin(b, inside)
		measure := func(p *env.Process) (ns float64) {
			// The first go warms the caches, and an emulator's translation.
			for range 2 {
				p.Tell(fmt.Sprint(v.call, " ", *callTimesFlag))
				p.Read(&ns)
			}
			return ns
		}
		v.target = append(v.target, measure(inside))
		v.bystander = append(v.bystander, measure(outside))
		end()
	})
	report := newReport("calls", "time of a system call, of the target and of a process of another cgroup; nothing = 1")
	report.Rounds = *callRoundsFlag
	report.Columns = []bench.Column{
		{Key: "target", Head: "target", Digits: 2},
		{Key: "bystander", Head: "bystander", Digits: 2},
	}
	base := map[string]*callVariant{}
	for _, v := range variants {
		if base[v.call] == nil {
			base[v.call] = v
		}
		row := bench.Row{Name: v.call + ": " + v.name, Skipped: v.missing}
		if v.missing == "" {
			row.Values = map[string]bench.Spread{
				"target":       bench.SpreadOf(bench.Ratios(v.target, base[v.call].target)),
				"bystander":    bench.SpreadOf(bench.Ratios(v.bystander, base[v.call].bystander)),
				"target_ns":    bench.SpreadOf(v.target),
				"bystander_ns": bench.SpreadOf(v.bystander),
			}
		}
		report.Rows = append(report.Rows, row)
	}
	write(b, report)
}

// begin puts a variant in place.
func (v *callVariant) begin(b *testing.B, target *env.Process) (end func()) {
	b.Helper()
	switch {
	case v.strace:
		return traced(b, target, v.call)
	case v.plan == nil:
		return func() {}
	}
	i := env.Begin(b, v.plan)
	return func() {
		c := i.Count()
		i.End()
		// The decided calls are those of the target; it makes some of its own too.
		ours := v.name != "syscallError of another call" && !strings.HasSuffix(v.name, "another path")
		if n := uint64(*callTimesFlag); ours && c.Matched < n || !ours && c.Matched != 0 {
			b.Errorf("%s: %s: the fault matched %d calls, and %d were made", v.call, v.name, c.Matched, n)
		}
	}
}

// traced lets strace decide about the calls of a process.
func traced(b *testing.B, target *env.Process, call string) (end func()) {
	b.Helper()
	strace := env.StartProgram(b, env.Cgroup(b), nil, "strace", "-f", "-qq", "-o", "/dev/null",
		"-e", "trace="+call, "-e", "inject="+call+":error=EIO:when=65535", "-p", strconv.Itoa(target.PID()))
	attached := func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", target.PID()))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			status, err := os.ReadFile(task)
			if err != nil {
				return err
			}
			if strings.Contains(string(status), "\nTracerPid:\t0\n") {
				return errors.New("not attached yet")
			}
		}
		return nil
	}
	if err := env.Within(time.Minute, attached); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := unix.Kill(strace.PID(), unix.SIGTERM); err != nil {
			b.Error(err)
		}
		strace.Status()
	}
}
