//go:build linux && privileged

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/guard"
	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/agent/target"
	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	workloads := env.Traffic()
	workloads["run"] = runToBeKilled
	workloads["guard"] = serveGuard
	workloads["revert"] = revertToBeKilled
	env.MountBPF()
	env.Main(m, workloads)
}

// lab is an engine with a target that sends, and the network around it.
type lab struct {
	t         *testing.T
	engine    *engine.Engine
	target    fault.Cgroup
	neighbour fault.Cgroup
	network   env.Network
	traffic   env.UDPPair
}

func newEngine(stateDir, cgroupRoot string) *engine.Engine {
	log := slog.New(slog.DiscardHandler)
	return &engine.Engine{
		StateDir:   stateDir,
		CgroupRoot: cgroupRoot,
		Targets:    &target.Resolver{CgroupRoot: cgroupRoot, SelfPID: os.Getpid()},
		Prober:     kernel.NewProber(cgroupRoot, log),
		Resolver:   net.DefaultResolver,
		Exempt:     []netip.AddrPort{},
		Version:    "test",
		Log:        log,
		Guard: func(runID string, linger bool) *exec.Cmd {
			return env.Again("guard", stateDir, runID, strconv.Itoa(os.Getpid()), strconv.FormatBool(linger))
		},
	}
}

// serveGuard is the guard of a run of this test.
func serveGuard(in io.Reader, _ *json.Encoder, args []string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	pid, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	return guard.Serve(context.Background(), guard.Config{
		StateDir: args[0],
		RunID:    args[1],
		PID:      pid,
		Linger:   args[3] == "true",
		Decode:   faults.DecodeUndo,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, in, os.Stdout)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{
		t:         t,
		engine:    newEngine(t.TempDir(), env.CgroupRoot(t)),
		target:    env.Cgroup(t),
		neighbour: env.Cgroup(t),
		network:   env.NewNetwork(t),
	}
	l.traffic = env.NewUDPPair(t, l.network, l.target, l.neighbour, env.AddressB+":7000", 100)
	return l
}

// experiment reads a document in which %[1]s is the target's path, as the
// command line reads one.
func (l *lab) experiment(text string) *v1.Experiment {
	l.t.Helper()
	text = "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata: {name: test}\nspec:\n" + fmt.Sprintf(text, l.target.Path)
	read, err := document.Decode("test.yaml", []byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	if problems := faults.Validate(read.Experiment); len(problems) > 0 {
		l.t.Fatal(problems)
	}
	faults.Defaults(read.Experiment)
	return read.Experiment
}

// run runs an experiment and calls active once, when its faults are active.
func (l *lab) run(ctx context.Context, text string, active func()) (*v1.Result, error) {
	l.t.Helper()
	called := make(chan struct{})
	begun := false
	result, err := l.engine.Run(ctx, l.experiment(text), func(status *v1.RunStatus) {
		if begun {
			return
		}
		for _, f := range status.GetFaults() {
			if f.GetState() == v1.FaultState_ACTIVE {
				begun = true
				go func() {
					defer close(called)
					active()
				}()
				return
			}
		}
	})
	if begun {
		<-called
	}
	l.untouched()
	return result, err
}

// untouched fails the test unless the target is as it was.
func (l *lab) untouched() {
	l.t.Helper()
	if programs := l.programs(); programs != 0 {
		l.t.Errorf("%d programs are attached to the target", programs)
	}
	if _, lost := l.traffic.Exchange(); len(lost) > 0 {
		l.t.Errorf("the target still loses packets: %d of %d", len(lost), l.traffic.Count)
	}
}

func (l *lab) programs() (count int) {
	l.t.Helper()
	dir, err := os.Open(l.target.Path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		if err != nil {
			l.t.Fatal(err)
		}
		count += len(found.Programs)
	}
	return count
}

func nothing() {}

func (l *lab) want(result *v1.Result, verdict v1.Verdict, reason string) {
	l.t.Helper()
	if result.GetVerdict() != verdict || !strings.Contains(result.GetReason(), reason) {
		l.t.Errorf("verdict %s (%s), want %s (%s)", result.GetVerdict(), result.GetReason(), verdict, reason)
	}
	if result.GetRollback() != v1.Rollback_VERIFIED || len(result.GetDifferences()) > 0 {
		l.t.Errorf("rollback %s %q", result.GetRollback(), result.GetDifferences())
	}
	entries, err := os.ReadDir(filepath.Join(l.engine.StateDir, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Error(err)
	}
	if len(entries) > 0 {
		l.t.Errorf("the journal of %s is still there", entries[0].Name())
	}
}

const oneLoss = `
  seed: 7
  steps:
  - faults:
    - target: {cgroup: %[1]s}
      networkLoss: {percent: 50}
      filter: {ports: [7000]}
      duration: 2s
`

func TestRunInjectsCountsAndTakesBack(t *testing.T) {
	l := newLab(t)
	var lost []int
	result, err := l.run(t.Context(), oneLoss, func() { _, lost = l.traffic.Exchange() })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_PASSED, "every fault had effect")
	f := result.GetFaults()[0]
	if f.GetMatched() != 100 || f.GetInjected() != uint64(len(lost)) || f.GetMissed() != 0 {
		t.Errorf("result %v, the receiver lost %d", f, len(lost))
	}
	if f.GetState() != v1.FaultState_REVERTED || f.GetMechanism() == "" || f.GetTarget().GetCgroups()[0].GetId() != l.target.ID {
		t.Errorf("result %v", f)
	}
	if len(f.GetEvents()) == 0 {
		t.Error("no event was sampled")
	}
	if took := f.GetEndTime().AsTime().Sub(f.GetStartTime().AsTime()); took < 2*time.Second {
		t.Errorf("the fault was active for %s, want 2s", took)
	}
}

func TestSameSeedHitsTheSamePackets(t *testing.T) {
	l := newLab(t)
	var lost [2][]int
	for i := range lost {
		if _, err := l.run(t.Context(), oneLoss, func() { _, lost[i] = l.traffic.Exchange() }); err != nil {
			t.Fatal(err)
		}
	}
	if len(lost[0]) == 0 || fmt.Sprint(lost[0]) != fmt.Sprint(lost[1]) {
		t.Errorf("lost %v, then %v", lost[0], lost[1])
	}
}

func TestFaultThatHitsNothingIsNoPass(t *testing.T) {
	l := newLab(t)
	result, err := l.run(t.Context(), oneLoss, nothing)
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_NO_EFFECT, "hit nothing")
}

func TestObserveHasNoVerdict(t *testing.T) {
	l := newLab(t)
	var lost []int
	result, err := l.run(t.Context(), oneLoss+"  observe: true\n", func() { _, lost = l.traffic.Exchange() })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_PASSED, "observed only")
	if f := result.GetFaults()[0]; len(lost) != 0 || f.GetMatched() != 100 || f.GetInjected() == 0 {
		t.Errorf("lost %d, result %v", len(lost), f)
	}
}

func TestAbortTakesBackAtOnce(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	text := strings.Replace(oneLoss, "2s", "10m", 1)
	result, err := l.run(ctx, text, func() { cancel(errors.New("interrupted by a person")) })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_ABORTED, "interrupted by a person")
}

func TestStopFileEndsARunAndForbidsTheNext(t *testing.T) {
	l := newLab(t)
	l.engine.StopFile = filepath.Join(t.TempDir(), "STOP")
	text := strings.Replace(oneLoss, "2s", "10m", 1)
	result, err := l.run(t.Context(), text, func() {
		if err := os.WriteFile(l.engine.StopFile, nil, 0o600); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_ABORTED, "STOP exists")
	result, err = l.run(t.Context(), text, nothing)
	if !errors.Is(err, engine.ErrStopped) {
		t.Errorf("the next run ended with %v", err)
	}
	l.want(result, v1.Verdict_ERROR, "STOP exists")
}

func TestFailingProbeEndsTheRun(t *testing.T) {
	l := newLab(t)
	text := strings.Replace(oneLoss, "2s", "10m", 1) + `
  probes:
  - {name: gate, command: {command: ["false"]}, when: DURING, interval: 100ms, onFailure: ABORT}
`
	result, err := l.run(t.Context(), text, nothing)
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_FAILED, `probe "gate" failed`)
}

func TestFailedProbeBeforeInjectsNothing(t *testing.T) {
	l := newLab(t)
	text := oneLoss + `
  probes:
  - {name: gate, command: {command: ["false"]}, when: START, onFailure: ABORT}
`
	result, err := l.run(t.Context(), text, func() { t.Error("a fault was active") })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_FAILED, `probe "gate" failed`)
	if f := result.GetFaults()[0]; f.GetState() != v1.FaultState_PENDING {
		t.Errorf("fault %v", f)
	}
}

func TestRecordedProbeFailsTheVerdict(t *testing.T) {
	l := newLab(t)
	text := oneLoss + `
  probes:
  - {name: always, command: {command: ["true"]}, when: CONTINUOUS}
  - {name: never, command: {command: ["false"]}, when: EDGE}
`
	result, err := l.run(t.Context(), text, func() { l.traffic.Exchange() })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_FAILED, `probe "never" failed 2 of 2 times`)
	if p := result.GetProbes()[0]; !p.GetPassed() || p.GetAttempts() < 3 {
		t.Errorf("probe %v", p)
	}
}

func TestStepsFollowEachOtherAndFaultsGoTogether(t *testing.T) {
	l := newLab(t)
	result, err := l.run(t.Context(), `
  steps:
  - name: together
    faults:
    - {name: a, target: {cgroup: %[1]s}, networkLoss: {percent: 100}, filter: {ports: [1]}, duration: 1s}
    - {name: b, target: {cgroup: %[1]s}, networkPartition: {}, filter: {ports: [2]}, duration: 1s}
  - name: after
    faults:
    - {name: c, target: {cgroup: %[1]s}, networkLoss: {percent: 100}, filter: {ports: [1]}, duration: 1s}
`, nothing)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := result.GetFaults()[0], result.GetFaults()[1], result.GetFaults()[2]
	if b.GetStartTime().AsTime().After(a.GetEndTime().AsTime()) || a.GetStartTime().AsTime().After(b.GetEndTime().AsTime()) {
		t.Errorf("a and b did not overlap: %v, %v", a, b)
	}
	for _, f := range []*v1.FaultResult{a, b} {
		if c.GetStartTime().AsTime().Before(f.GetEndTime().AsTime()) {
			t.Errorf("c began before the end of %v", f)
		}
	}
}

func TestFaultsThatFightAreRefused(t *testing.T) {
	l := newLab(t)
	_, err := l.run(t.Context(), `
  steps:
  - faults:
    - {name: a, target: {cgroup: %[1]s}, networkLoss: {percent: 1}, filter: {ports: ["1-100"]}, duration: 1s}
    - {name: b, target: {cgroup: %[1]s}, networkPartition: {}, filter: {ports: [80]}, duration: 1s}
`, nothing)
	if !errors.Is(err, engine.ErrConflict) || !strings.Contains(err.Error(), `"a" and "b"`) {
		t.Errorf("ended with %v", err)
	}
}

func TestFaultThatIsNotBuiltIsRefused(t *testing.T) {
	l := newLab(t)
	_, err := l.run(t.Context(), `
  steps:
  - faults:
    - {target: {cgroup: %[1]s}, processKill: {signal: SIGKILL}, duration: 1s}
`, nothing)
	if !errors.Is(err, fault.ErrNotBuilt) {
		t.Errorf("ended with %v", err)
	}
}

// One fault of a step can't be injected: the other never begins.
func TestStepIsAllOrNothing(t *testing.T) {
	l := newLab(t)
	full := env.Cgroup(t)
	fill(t, full)
	result, err := l.run(t.Context(), strings.ReplaceAll(`
  steps:
  - faults:
    - {name: possible, target: {cgroup: %[1]s}, networkPartition: {}, duration: 10m}
    - {name: impossible, target: {cgroup: FULL}, networkPartition: {}, duration: 10m}
`, "FULL", full.Path), func() { t.Error("a fault was active") })
	if !errors.Is(err, syscall.E2BIG) {
		t.Errorf("ended with %v", err)
	}
	l.want(result, v1.Verdict_ERROR, "impossible")
	if state := result.GetFaults()[0].GetState(); state != v1.FaultState_NOT_INJECTED {
		t.Errorf("the possible fault is %s", state)
	}
}

// fill attaches as many programs as a cgroup takes (BPF_CGROUP_MAX_PROGS).
func fill(t *testing.T, cgroup fault.Cgroup) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:         ebpf.CGroupSKB,
			AttachType:   ebpf.AttachCGroupInetEgress,
			License:      "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Path, Attach: ebpf.AttachCGroupInetEgress, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = l.Close(), program.Close() })
	}
}

func TestWithoutAJournalNothingIsInjected(t *testing.T) {
	l := newLab(t)
	l.engine.StateDir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(l.engine.StateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.run(t.Context(), oneLoss, func() { t.Error("a fault was active") })
	if !errors.Is(err, journal.ErrUnwritable) {
		t.Errorf("ended with %v", err)
	}
}

// A lease that is longer than the machine allows is refused, and one that the
// document leaves open is cut.
func TestLeaseIsCappedByTheMachine(t *testing.T) {
	l := newLab(t)
	l.engine.MaxLease = 2 * time.Second
	document := strings.Replace(oneLoss, "seed: 7", "leaseTimeout: 3s", 1)
	if _, err := l.run(t.Context(), document, func() { t.Error("a fault was active") }); !errors.Is(err, engine.ErrLease) {
		t.Errorf("ended with %v", err)
	}
	if _, err := l.engine.Plan(t.Context(), l.experiment(document)); !errors.Is(err, engine.ErrLease) {
		t.Errorf("planned: %v", err)
	}
	result, err := l.run(t.Context(), oneLoss, func() { l.traffic.Exchange() })
	if err != nil {
		t.Fatal(err)
	}
	l.want(result, v1.Verdict_PASSED, "had effect")
}
