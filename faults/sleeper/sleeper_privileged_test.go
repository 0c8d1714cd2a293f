//go:build linux && privileged

package sleeper_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/bpf/testsleep"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/sleeper"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

const (
	forever  = 1 << 63
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"owner": owner, "opener": opener})
}

// need skips the test where programs can't sleep, or not for every process.
func need(t *testing.T) {
	t.Helper()
	prober := env.Prober(t)
	for _, capability := range []kernel.Capability{kernel.SleepableLSM, kernel.CopyFromUserTask, kernel.TaskFromPidKfunc, kernel.FUSE} {
		if answer := prober.Probe(t.Context(), capability); !answer.OK() {
			kernels.Missing(t, string(capability), errors.New(answer.Reason))
		}
	}
}

// sleeping lets a process sleep whenever it opens a file.
type sleeping struct {
	*sleeper.Sleeper
	maps map[string]*ebpf.Map
	link link.Link
}

func newSleeping(pid int, delay uint64) (*sleeping, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := testsleep.LoadObjects()
	if err != nil {
		return nil, err
	}
	sleeps, err := ebpf.NewMap(spec.Maps[testsleep.ObjectsMapFlSleeps])
	if err != nil {
		return nil, err
	}
	s := &sleeping{}
	if s.Sleeper, err = sleeper.Start(context.Background(), sleeps); err != nil {
		return nil, err
	}
	err = errors.Join(
		spec.Variables[testsleep.ObjectsVarFlSleeper].Set(s.Config()),
		spec.Variables[testsleep.ObjectsVarFlTest].Set(struct {
			Delay        uint64
			Process, Pad uint32
		}{delay, uint32(pid), 0}),
	)
	if err != nil {
		return nil, err
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{testsleep.ObjectsMapFlSleeps: sleeps}})
	if err != nil {
		return nil, err
	}
	s.maps = collection.Maps
	s.link, err = link.AttachLSM(link.LSMOptions{Program: collection.Programs[testsleep.ObjectsProgFlOpen]})
	return s, err
}

func letSleep(t *testing.T, pid int, delay uint64) *sleeping {
	t.Helper()
	s, err := newSleeping(pid, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		_ = s.link.Close()
	})
	if err := s.Lease(fault.BootTime() + uint64(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

// counted are the opens of the process, and those that slept.
func (s *sleeping) counted(t *testing.T) (matched, slept uint64) {
	t.Helper()
	var all []struct{ Matched, Chosen, Hit uint64 }
	if err := s.maps[testsleep.ObjectsMapFlStats].Lookup(uint32(0), &all); err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		matched, slept = matched+one.Matched, slept+one.Hit
	}
	return matched, slept
}

// awaitSleepers waits until so many sleep.
func (s *sleeping) awaitSleepers(t *testing.T, want int) {
	t.Helper()
	if err := env.Within(patience, func() error {
		var page uint32
		var one struct {
			Until      uint64
			Taken, Cut uint32
		}
		n := 0
		for all := s.maps[testsleep.ObjectsMapFlSleeps].Iterate(); all.Next(&page, &one); {
			n += int(one.Taken)
		}
		if n != want {
			return fmt.Errorf("%d sleep, want %d", n, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// opening is the order to open a file in threads.
func opening(threads, times int) env.Order {
	return env.Order{
		Number: unix.SYS_OPENAT, Arguments: []int64{unix.AT_FDCWD, 0, unix.O_RDONLY}, Texts: map[int]string{1: "/dev/null"},
		Threads: threads, Times: times,
	}
}

func expect(t *testing.T, got env.Results, times int) {
	t.Helper()
	if len(got) != 1 || got[0] != times {
		t.Errorf("results %v, want %d times 0", got, times)
	}
}

// Many sleep at the same moment, each for its time, and a second time on the same pages.
func TestManySleepAtOnce(t *testing.T) {
	need(t)
	caller := env.NewCaller(t, env.Cgroup(t))
	const threads, delay = 48, 500 * time.Millisecond
	s := letSleep(t, caller.PID(), uint64(delay))
	for range 2 {
		begin := time.Now()
		expect(t, caller.Do(opening(threads, 1)), threads)
		took := time.Since(begin)
		t.Logf("%d threads slept %s in %s", threads, delay, took)
		// One after the other would be 24 s.
		if took < delay || took > threads*delay/2 {
			t.Errorf("%s", took)
		}
	}
	if matched, slept := s.counted(t); matched != 2*threads || slept != 2*threads {
		t.Errorf("%d of %d slept", slept, matched)
	}
}

func TestAllWake(t *testing.T) {
	need(t)
	const threads = 16
	for _, tt := range []struct {
		name string
		wake func(*testing.T, *sleeping)
		// gone: nobody can sleep afterwards.
		gone bool
	}{
		{"woken", func(_ *testing.T, s *sleeping) { s.Wake() }, false},
		{"the lease is over", func(t *testing.T, s *sleeping) {
			if err := s.Lease(fault.BootTime() + uint64(time.Second)); err != nil {
				t.Error(err)
			}
		}, false},
		{"closed", func(_ *testing.T, s *sleeping) { s.Close() }, true},
		{"the daemon is killed", func(t *testing.T, _ *sleeping) { kill(t, "faultline-sleeper") }, true},
		{"the holder is killed", func(t *testing.T, _ *sleeping) { kill(t, "faultline-holder") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller := env.NewCaller(t, env.Cgroup(t))
			s := letSleep(t, caller.PID(), forever)
			caller.Begin(opening(threads, 1))
			s.awaitSleepers(t, threads)
			begin := time.Now()
			tt.wake(t, s)
			expect(t, caller.End(), threads)
			t.Logf("all awake after %s", time.Since(begin))
			if !tt.gone {
				// Woken before their time, they have slept all the same.
				if _, slept := s.counted(t); slept != threads {
					t.Errorf("%d of %d slept", slept, threads)
				}
				return
			}
			<-s.Gone()
			expect(t, caller.Do(opening(1, 5)), 5)
			if _, slept := s.counted(t); slept != 0 {
				t.Errorf("%d slept for which nobody answered", slept)
			}
			if err := s.Lease(forever); !errors.Is(err, sleeper.ErrGone) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// children are processes of a name that a process has started.
func children(parent int, name string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range dirs {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		var pid, above int
		var comm, state string
		if n, _ := fmt.Sscanf(string(text), "%d %s %s %d", &pid, &comm, &state, &above); n < 4 || above != parent || state == "Z" {
			continue
		}
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.TrimRight(string(line), "\x00") == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

func kill(t *testing.T, name string) {
	t.Helper()
	pids := children(os.Getpid(), name)
	if len(pids) != 1 {
		t.Fatalf("processes of the name %s: %v", name, pids)
	}
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// opener opens a file in a Go program, and says how long that took.
func opener(in io.Reader, out *json.Encoder, _ []string) error {
	return env.Serve(in, out, func([]string) (any, error) {
		begin := time.Now()
		file, err := os.Open("/dev/null")
		if err != nil {
			return nil, err
		}
		return time.Since(begin), file.Close()
	})
}

func TestSignals(t *testing.T) {
	need(t)
	p := env.Start(t, env.Cgroup(t), nil, "opener")
	var ready string
	p.Read(&ready)
	const delay = 500 * time.Millisecond
	s := letSleep(t, p.PID(), uint64(delay))
	p.Tell("open")
	s.awaitSleepers(t, 1)
	for range 20 {
		if err := unix.Kill(p.PID(), unix.SIGURG); err != nil {
			t.Fatal(err)
		}
	}
	var took time.Duration
	p.Read(&took)
	if took < delay {
		t.Errorf("signals have cut %s to %s", delay, took)
	}

	s.Close()
	_ = s.link.Close()
	s = letSleep(t, p.PID(), forever)
	p.Tell("open")
	s.awaitSleepers(t, 1)
	if err := unix.Kill(p.PID(), unix.SIGURG); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.Kill() // and waits for its end
	t.Logf("killed in its sleep, it ended after %s", time.Since(begin))
	s.awaitSleepers(t, 0)
}

// owner lets a process sleep until it is killed itself.
func owner(in io.Reader, out *json.Encoder, args []string) error {
	var pid int
	if _, err := fmt.Sscan(args[0], &pid); err != nil {
		return err
	}
	s, err := newSleeping(pid, forever)
	if err != nil {
		return err
	}
	if err := s.Lease(fault.BootTime() + uint64(time.Hour)); err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

func TestTheOwnerIsKilled(t *testing.T) {
	need(t)
	caller := env.NewCaller(t, env.Cgroup(t))
	p := env.Start(t, env.Cgroup(t), nil, "owner", fmt.Sprint(caller.PID()))
	var ready string
	p.Read(&ready)
	ours := append(children(p.PID(), "faultline-sleeper"), children(p.PID(), "faultline-holder")...)
	if len(ours) != 2 {
		t.Fatalf("its processes are %v", ours)
	}
	caller.Begin(opening(16, 1))
	begin := time.Now()
	p.Kill()
	expect(t, caller.End(), 16)
	t.Logf("all awake after %s", time.Since(begin))
	for _, pid := range ours {
		if err := env.Within(patience, func() error {
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("process %d: %w", pid, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	out, err := exec.Command("cat", "/proc/mounts").Output()
	if err != nil || strings.Contains(string(out), "faultline-sleeper") {
		t.Errorf("mounts: %v\n%s", err, out)
	}
}
