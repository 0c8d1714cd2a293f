//go:build linux && privileged

package engine_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/faults/tracing"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// scenario is a fault that processes die with.
type scenario struct {
	name  string
	needs []kernel.Capability
	// steps is a document from "steps:" on.
	steps string
}

func oneFault(what string) string {
	return "steps: [{faults: [{target: {cgroup: %[1]s}, duration: 300ms, " + what + "}]}]\n"
}

func needs(capabilities ...kernel.Capability) []kernel.Capability { return capabilities }

var scenarios = []scenario{
	{"loss by tcx", needs(kernel.TCX), oneFault("networkLoss: {percent: 50}, mechanism: tcx")},
	{"loss by cls_bpf", needs(kernel.ClsBPF), oneFault("networkLoss: {percent: 50}, mechanism: cls_bpf")},
	{"partition", needs(kernel.CgroupSKB), oneFault("networkPartition: {}")},
	{"pinned loss by tcx", needs(kernel.TCX), oneFault("networkLoss: {percent: 50}, mechanism: tcx, persistence: PINNED")},
	{"pinned loss by cls_bpf", needs(kernel.ClsBPF), oneFault("networkLoss: {percent: 50}, mechanism: cls_bpf, persistence: PINNED")},
	{"pinned partition", needs(kernel.CgroupSKB), oneFault("networkPartition: {}, persistence: PINNED")},
	{"latency by tcx_fq", needs(kernel.TCX, kernel.FQ), oneFault("networkLatency: {delay: 20ms, jitter: 5ms}, mechanism: tcx_fq")},
	{"latency by cls_bpf_fq", needs(kernel.ClsBPF, kernel.FQ), oneFault("networkLatency: {delay: 20ms}, mechanism: cls_bpf_fq")},
	{"pinned latency by tcx_fq", needs(kernel.TCX, kernel.FQ), oneFault("networkLatency: {delay: 20ms}, mechanism: tcx_fq, persistence: PINNED")},
	{"pinned latency by cls_bpf_fq", needs(kernel.ClsBPF, kernel.FQ), oneFault("networkLatency: {delay: 20ms}, mechanism: cls_bpf_fq, persistence: PINNED")},
	{"reordering", needs(kernel.FQ), oneFault("networkReorder: {percent: 20, gap: 3}")},
	{"latency by netem", needs(kernel.Prio, kernel.Netem), oneFault("networkLatency: {delay: 20ms}, mechanism: netem")},
	{"latency and loss", needs(kernel.ClsBPF, kernel.FQ), `steps:
  - faults:
    - {name: late, target: {cgroup: %[1]s}, duration: 200ms, networkLatency: {delay: 20ms}}
    - {name: lose, target: {cgroup: %[1]s}, duration: 300ms, networkLoss: {percent: 10}}
`},
	{"latency of both directions", needs(kernel.ClsBPF, kernel.FQ, kernel.IFB), oneFault("networkLatency: {delay: 20ms}, filter: {direction: BOTH}")},
	{"corruption", needs(kernel.ClsBPF), oneFault("networkCorrupt: {percent: 50}")},
	{"duplicates", needs(kernel.ClsBPF), oneFault("networkDuplicate: {percent: 50}")},
	{"bandwidth", needs(kernel.ClsBPF, kernel.FQ), oneFault("networkBandwidth: {rate: 1Mbit}")},
	{"bandwidth by tbf", needs(kernel.Prio, kernel.TBF), oneFault("networkBandwidth: {rate: 1Mbit}, mechanism: tbf")},
	{"received corruption and reordering", needs(kernel.ClsBPF, kernel.FQ, kernel.IFB), `steps:
  - faults:
    - {name: flip, target: {cgroup: %[1]s}, duration: 200ms, networkCorrupt: {percent: 50}, filter: {direction: INGRESS}}
    - {name: fall, target: {cgroup: %[1]s}, duration: 300ms, networkReorder: {percent: 50, gap: 3}, filter: {direction: INGRESS}}
`},
	{"calls by fmod_ret", needs(kernel.FmodRetSyscall), oneFault("syscallError: {calls: [statfs, ustat], errno: EIO}, mechanism: fmod_ret")},
	{"calls by kprobe_override", needs(kernel.KprobeOverride), oneFault("syscallError: {calls: [statfs, ustat], errno: EIO}, mechanism: kprobe_override")},
	{"calls that ask", needs(kernel.FmodRetSecurity), oneFault("syscallError: {calls: [statfs, fstatfs], errno: EIO}, mechanism: fmod_ret_security")},
	{"calls that wait at their entry", tracing.SleepNeeds(kernel.SleepableFmodRet), oneFault("syscallDelay: {calls: [statfs], delay: 20ms}, mechanism: sleepable_fmod_ret")},
	{"calls that wait where they ask", tracing.SleepNeeds(kernel.SleepableLSM), oneFault("syscallDelay: {calls: [openat, unlink], delay: 20ms}, mechanism: sleepable_lsm")},
	{"calls that wait before they return", tracing.SleepNeeds(kernel.TaskWork), oneFault("syscallDelay: {calls: [openat, statfs], delay: 20ms}, mechanism: task_work")},
	{"sockets at their cgroup", needs(kernel.SetRetval), oneFault("socketError: {operations: [CONNECT, SETSOCKOPT], errno: EIO}, mechanism: cgroup_sock")},
	{"sockets", needs(kernel.FmodRetSecurity), oneFault("socketError: {operations: [ACCEPT, SEND], errno: EIO}, mechanism: fmod_ret_security")},
	{"names", needs(kernel.CgroupConnect), oneFault("dnsFault: {names: ['*'], answer: NXDOMAIN}")},
	{"files", needs(kernel.FmodRetSecurity), oneFault("fileError: {operations: [WRITE, STAT], path: /tmp/nothing/**, errno: EIO}")},
	{"files that are late where they ask", tracing.SleepNeeds(kernel.SleepableLSM), oneFault("fileDelay: {operations: [OPEN, STAT], path: /tmp/**, delay: 20ms}, mechanism: sleepable_lsm")},
	{"files that are late before they return", tracing.SleepNeeds(kernel.TaskWork), oneFault("fileDelay: {operations: [READ, STAT], path: /tmp/**, delay: 20ms}, mechanism: task_work")},
	// The guests' scratch disk.
	{"disk", needs(kernel.ShouldFailBio), oneFault("diskError: {operations: [READ], device: /dev/vdb}")},
	{"processor", needs(kernel.CPUController), oneFault(`cpuPressure: {limit: "20%%"}`)},
	{"memory", needs(kernel.MemoryController), oneFault("memoryPressure: {limit: 64MiB}")},
	{"processes", needs(kernel.PidsController), oneFault(`pidsPressure: {limit: "50"}`)},
	{"pause", needs(kernel.CgroupFreeze), oneFault("processPause: {}")},
	{"steps", needs(kernel.CgroupFreeze), `steps:
  - faults:
    - {name: part, target: {cgroup: %[1]s}, duration: 100ms, networkPartition: {}}
    - {name: freeze, target: {cgroup: %[1]s}, duration: 200ms, processPause: {}}
  - faults:
    - {name: lose, target: {cgroup: %[1]s}, duration: 100ms, networkLoss: {percent: 10}, filter: {direction: BOTH}}
`},
}

// arena is where processes die: a lab, and what it looked like before.
type arena struct {
	*lab
	before    string
	scenarios []scenario
	paths     map[string]string
}

func newArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{lab: newLab(t), paths: map[string]string{}}
	wanted, err := regexp.Compile(os.Getenv("FAULTLINE_SCENARIO"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios {
		if !wanted.MatchString(s.name) {
			continue
		}
		lacks := slices.IndexFunc(s.needs, func(c kernel.Capability) bool { return !a.engine.Prober.Probe(t.Context(), c).OK() })
		if lacks >= 0 {
			// That each kernel has what it should is the business of the
			// faults' own tests.
			t.Logf("not here: %s, for want of %s", s.name, s.needs[lacks])
			continue
		}
		a.scenarios = append(a.scenarios, s)
		experiment := a.experiment("  leaseTimeout: 1s\n  " + s.steps)
		// Who dies before he did anything proves nothing.
		if _, err := a.engine.Plan(t.Context(), experiment); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		encoded, err := proto.Marshal(experiment)
		if err != nil {
			t.Fatal(err)
		}
		a.paths[s.name] = filepath.Join(t.TempDir(), "experiment")
		if err := os.WriteFile(a.paths[s.name], encoded, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.before = a.surroundings()
	return a
}

// surroundings is all that a fault of a scenario may touch.
func (a *arena) surroundings() string {
	a.t.Helper()
	var text strings.Builder
	text.WriteString(a.network.A.Run("tc", "qdisc", "show"))
	text.WriteString(a.network.A.Run("ip", "-o", "link", "show"))
	for _, side := range []string{"ingress", "egress"} {
		text.WriteString(a.network.A.Run("tc", "filter", "show", "dev", env.Veth, side))
	}
	fmt.Fprintln(&text, "programs:", a.programs())
	for _, name := range []string{"cpu.max", "memory.high", "pids.max", "cgroup.freeze"} {
		value, err := os.ReadFile(filepath.Join(a.target.Path, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			a.t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s: %s\n", name, value)
	}
	return text.String()
}

// start starts a workload of this test that dies at the moments.
func (a *arena) start(moments string, workload string, args ...string) *exec.Cmd {
	a.t.Helper()
	cmd := env.Again(workload, args...)
	cmd.Env = append(cmd.Env, failpoint.Variable+"="+moments)
	cmd.Stderr = nil
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd
}

func (a *arena) startScenario(s scenario, moments string) *exec.Cmd {
	a.t.Helper()
	return a.start(moments, "run", a.paths[s.name], a.engine.StateDir, a.engine.CgroupRoot)
}

// killed waits for a process and tells whether SIGKILL ended it.
func killed(cmd *exec.Cmd) bool {
	_ = cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGKILL
}

// guards are the processes that watch over runs of this arena.
func (a *arena) guards() (pids []int) {
	a.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		a.t.Fatal(err)
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		args := bytes.Split(text, []byte{0})
		if err == nil && len(args) > 1 && string(args[1]) == a.engine.StateDir {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
			if err != nil {
				a.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// patience is how long a test waits for something that comes in moments.
const patience = 30 * time.Second

// deadRun is the only run, whose process has died.
func (a *arena) deadRun() journal.Run {
	a.t.Helper()
	runs, err := journal.List(a.engine.StateDir)
	if err != nil || len(runs) != 1 || runs[0].Alive {
		a.t.Fatalf("runs %+v, %v", runs, err)
	}
	return runs[0]
}

// guardless waits until no guard is left. One that is ending has no command
// line any more, and still holds the run for a moment.
func (a *arena) guardless() error {
	return env.Within(patience, func() error {
		if pids := a.guards(); len(pids) > 0 {
			return fmt.Errorf("guards %v are still there", pids)
		}
		runs, err := journal.List(a.engine.StateDir)
		if i := slices.IndexFunc(runs, func(r journal.Run) bool { return r.Alive }); i >= 0 {
			return fmt.Errorf("process %d still has run %s", runs[i].PID, runs[i].ID)
		}
		return err
	})
}

func (a *arena) killGuards() {
	a.t.Helper()
	for _, pid := range a.guards() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			a.t.Fatal(err)
		}
	}
}

// clean reverts, and says what is left then.
func (a *arena) clean() error {
	report, err := journal.Revert(a.t.Context(), a.engine.StateDir, faults.DecodeUndo)
	if err != nil || len(report.GetFailed()) > 0 {
		return fmt.Errorf("reverting: %v, %w", report.GetFailed(), err)
	}
	return a.nothingLeft()
}

// nothingLeft compares with how it was before the first process died.
func (a *arena) nothingLeft() error {
	var errs []error
	if entries, err := os.ReadDir(filepath.Join(a.engine.StateDir, "runs")); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	} else if open := slices.DeleteFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }); len(open) > 0 {
		errs = append(errs, fmt.Errorf("the journal is not closed: %v", open))
	}
	// Descriptors of a killed process end a moment after it.
	errs = append(errs, env.Within(5*time.Second, func() error {
		if after := a.surroundings(); after != a.before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", a.before, after)
		}
		return nil
	}))
	remnants, err := faults.Remnants(a.t.Context(), a.engine.CgroupRoot)
	errs = append(errs, err)
	for _, r := range remnants {
		if filter, ok := r.(network.TCFilter); ok && filter.NetNS != a.network.A.Inode() {
			continue // of another test on this machine
		}
		if root, ok := r.(qdisc.Root); ok && root.NetNS != a.network.A.Inode() {
			continue
		}
		if device, ok := r.(ifb.Undo); ok && device.NetNS != a.network.A.Inode() {
			continue
		}
		if _, ok := r.(faults.ProbeCgroup); ok {
			// It died while it probed: as revert --all, and as the next who
			// probes.
			errs = append(errs, r.Undo(a.t.Context()))
			continue
		}
		errs = append(errs, fmt.Errorf("left: %s", r.Describe()))
	}
	return errors.Join(errs...)
}

// count is how often something is done: many times in a campaign.
func count(few int, variable string) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	if _, guest, _ := kernels.Current(); guest {
		// Every kernel draws a sample of its own, and emulation is slow.
		return max(1, few/4)
	}
	return few
}

// dice is seeded by FAULTLINE_SEED; the seed is logged.
func dice(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("FAULTLINE_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("FAULTLINE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// death is a process that dies at a moment, and what else dies.
type death struct {
	scenario scenario
	moment   failpoint.Name
	passage  int
	// orphaned: the guard dies too.
	orphaned bool
}

// ofUndoing are the moments at which the guard dies too, when it has the run's
// place.
var ofUndoing = []failpoint.Name{failpoint.Undoing, failpoint.Undone, failpoint.Noted, failpoint.RecordWritten, failpoint.QdiscRestored, failpoint.Unsteered}

// Every moment of every scenario, with the guard and without: a sample of them,
// or all with FAULTLINE_DEATHS=100000, and those only whose scenario's name
// matches the regular expression FAULTLINE_SCENARIO.
func TestDeathAtEveryMoment(t *testing.T) {
	a := newArena(t)
	var deaths []death
	for _, s := range a.scenarios {
		for _, moment := range failpoint.All {
			for passage := 1; passage <= 2; passage++ {
				deaths = append(deaths, death{s, moment, passage, false}, death{s, moment, passage, true})
			}
		}
	}
	random := dice(t)
	random.Shuffle(len(deaths), func(i, j int) { deaths[i], deaths[j] = deaths[j], deaths[i] })
	// A moment of the sample is always reached somewhere.
	slices.SortStableFunc(deaths, func(a, b death) int { return cmp.Compare(a.passage, b.passage) })
	reached, of := map[failpoint.Name]int{}, map[string]int{}
	// What is not reached once is not reached twice, and not without a guard.
	never := map[string]bool{}
	died := 0
	want := count(25, "FAULTLINE_DEATHS")
	for _, d := range deaths {
		if died >= want {
			break
		}
		moments := fmt.Sprintf("%s#%d", d.moment, d.passage)
		place := d.scenario.name + ": " + string(d.moment)
		if never[place] {
			continue
		}
		if d.orphaned {
			moments += "," + string(failpoint.Orphaned)
		}
		if !killed(a.startScenario(d.scenario, moments)) {
			never[place] = true
			continue
		}
		died++
		reached[d.moment]++
		of[d.scenario.name]++
		if died%100 == 0 {
			t.Logf("%d deaths", died)
		}
		if err := a.guardless(); err != nil {
			t.Fatalf("%s, %s: %v", d.scenario.name, moments, err)
		}
		if d.orphaned || slices.Contains(ofUndoing, d.moment) {
			// Nobody has taken anything back, or who did died too. Reverting
			// dies as well, once.
			killed(a.start([]string{"undoing", "undone", "noted", "closing", "renamed"}[random.IntN(5)], "revert", a.engine.StateDir))
			if err := a.clean(); err != nil {
				t.Fatalf("%s, %s: %v", d.scenario.name, moments, err)
			}
			continue
		}
		if err := a.unattended(); err != nil {
			t.Fatalf("%s, %s: %v", d.scenario.name, moments, err)
		}
	}
	t.Logf("%d deaths: %v, %v", died, of, reached)
	// Some moments are those of one mechanism.
	if want < len(deaths) || len(a.scenarios) < len(scenarios) {
		return
	}
	for _, moment := range failpoint.All {
		if reached[moment] == 0 && moment != failpoint.Orphaned {
			t.Errorf("no process ever came to %q", moment)
		}
	}
}

// unattended is what a guard leaves: nothing, but for the journal's directory
// of a run that died where there was nothing to guard yet.
func (a *arena) unattended() error {
	runs, err := journal.List(a.engine.StateDir)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if len(run.Open) > 0 || run.Err != nil {
			return fmt.Errorf("the guard left %+v", run)
		}
	}
	return a.clean()
}

// Processes are killed at random times: the run, its guard, both, or the run is
// asked to end. FAULTLINE_KILLS says how often.
func TestDeathAtRandomTimes(t *testing.T) {
	a := newArena(t)
	random := dice(t)
	begin := time.Now()
	if err := a.startScenario(a.scenarios[0], "").Wait(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(begin)
	for n := range count(15, "FAULTLINE_KILLS") {
		s := a.scenarios[random.IntN(len(a.scenarios))]
		delay := time.Duration(random.Int64N(int64(whole)))
		victim := []string{"run", "guard", "both", "term"}[random.IntN(4)]
		if n%100 == 99 {
			t.Logf("%d deaths", n+1)
		}
		label := fmt.Sprintf("%d: %s, %s after %s", n, s.name, victim, delay)
		cmd := a.startScenario(s, "")
		timer := time.NewTimer(delay)
		<-timer.C
		if victim == "both" {
			// Stopped, it can't react to the end of its guard.
			_ = cmd.Process.Signal(syscall.SIGSTOP)
		}
		if victim == "guard" || victim == "both" {
			a.killGuards()
		}
		switch victim {
		case "run", "both":
			_ = cmd.Process.Kill()
		case "term":
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		_ = cmd.Wait()
		if err := a.guardless(); err != nil {
			t.Fatalf("%s: %v", label, err)
		}
		check := a.clean
		if victim == "run" {
			check = a.unattended
		}
		if err := check(); err != nil {
			t.Fatalf("%s: %v", label, err)
		}
	}
}
