//go:build linux && privileged

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/tracing"
	testenv "faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// frozenLease is the leaseTimeout of the runs that are frozen, and how much later
// their faults may end. An emulated machine is slow.
func frozenLease() (lease, slack time.Duration) {
	if _, guest, _ := kernels.Current(); guest {
		return 10 * time.Second, 5 * time.Second
	}
	return 3 * time.Second, time.Second
}

// freezing is a fault whose run is frozen.
type freezing struct {
	kind, mechanism, persistence string
	// fields are the fault's own, in the document.
	fields string
	needs  []kernel.Capability
	// twice: the fault is felt by datagrams that come twice, mixed: by their
	// order, answered: by questions of the other side without an answer; others
	// by datagrams that don't come.
	twice, mixed, answered bool
	// file of the cgroup that tells of the fault, for faults that no datagram
	// feels.
	file string
	// asks is a command that is run over and over and feels the fault, by failing.
	// @ is a directory, here and in fields.
	asks string
}

func (f freezing) name() string {
	return strings.Join(slices.DeleteFunc([]string{f.kind, f.mechanism, f.persistence}, func(s string) bool { return s == "" }), "/")
}

func needs(capabilities ...kernel.Capability) []kernel.Capability { return capabilities }

// Questions for the file system of a directory, a way to an address, and a name.
const (
	askStatfs = "stat -f @"
	// The guests' scratch disk, past the page cache.
	askDisk    = "dd if=/dev/vdb of=/dev/null bs=4096 count=1 iflag=direct"
	askConnect = "bash -c ': > /dev/udp/" + testenv.AddressB + "/9'"
	// A question for the address of x, and what begins the answer.
	askName = "bash -c 'exec 3<>/dev/udp/" + testenv.AddressB + `/53; printf "ab\1\0\0\1\0\0\0\0\0\0\1x\0\0\1\0\1" >&3; read -t 0.4 -n 1 <&3'`
)

var freezings = []freezing{
	{kind: "networkLoss", fields: "{percent: 100}", mechanism: "tcx", needs: needs(kernel.TCX)},
	{kind: "networkLoss", fields: "{percent: 100}", mechanism: "cls_bpf", needs: needs(kernel.ClsBPF)},
	{kind: "networkLoss", fields: "{percent: 100}", mechanism: "cgroup_skb", needs: needs(kernel.CgroupSKB)},
	{kind: "networkLoss", fields: "{percent: 100}", mechanism: "tcx", persistence: "PINNED", needs: needs(kernel.TCX)},
	{kind: "networkLoss", fields: "{percent: 100}", mechanism: "cls_bpf", persistence: "PINNED", needs: needs(kernel.ClsBPF)},
	{kind: "networkPartition", fields: "{}", needs: needs(kernel.CgroupSKB)},
	{kind: "networkPartition", fields: "{}", persistence: "PINNED", needs: needs(kernel.CgroupSKB)},
	// None of what is held comes before the lease has run out.
	{kind: "networkLatency", fields: "{delay: 20s}", mechanism: "tcx_fq", needs: needs(kernel.TCX, kernel.FQ)},
	{kind: "networkLatency", fields: "{delay: 20s}", mechanism: "cls_bpf_fq", needs: needs(kernel.ClsBPF, kernel.FQ)},
	{kind: "networkLatency", fields: "{delay: 20s}", mechanism: "netem", needs: needs(kernel.Netem, kernel.Prio)},
	{kind: "networkLatency", fields: "{delay: 20s}, filter: {direction: INGRESS}", answered: true, needs: needs(kernel.ClsBPF, kernel.FQ, kernel.IFB)},
	{kind: "networkDuplicate", fields: "{percent: 100}", mechanism: "tcx", twice: true, needs: needs(kernel.TCX)},
	{kind: "networkDuplicate", fields: "{percent: 100}", mechanism: "cls_bpf", twice: true, needs: needs(kernel.ClsBPF)},
	// Each second one falls back: none comes behind ten that are in order.
	{kind: "networkReorder", fields: "{percent: 100, gap: 2}, rate: {every: 2}", mechanism: "tcx_fq", mixed: true, needs: needs(kernel.TCX, kernel.FQ)},
	{kind: "networkReorder", fields: "{percent: 100, gap: 2}, rate: {every: 2}", mechanism: "cls_bpf_fq", mixed: true, needs: needs(kernel.ClsBPF, kernel.FQ)},
	// The other side's kernel drops what is damaged.
	{kind: "networkCorrupt", fields: "{percent: 100}", mechanism: "tcx", needs: needs(kernel.TCX)},
	{kind: "networkCorrupt", fields: "{percent: 100}", mechanism: "cls_bpf", needs: needs(kernel.ClsBPF)},
	{kind: "networkBandwidth", fields: "{rate: 8bit, burst: 1B}", needs: needs(kernel.FQ)},
	{kind: "networkBandwidth", fields: "{rate: 8bit, burst: 1B}", mechanism: "tbf", needs: needs(kernel.TBF, kernel.Prio)},
	{kind: "networkBandwidth", fields: "{rate: 8bit, burst: 1B}, filter: {direction: INGRESS}", answered: true, needs: needs(kernel.ClsBPF, kernel.FQ, kernel.IFB)},
	{kind: "cpuPressure", fields: "{limit: 20%}", file: "cpu.max", needs: needs(kernel.CPUController)},
	{kind: "memoryPressure", fields: "{limit: 64MiB}", file: "memory.high", needs: needs(kernel.MemoryController)},
	{kind: "pidsPressure", fields: `{limit: "50"}`, file: "pids.max", needs: needs(kernel.PidsController)},
	{kind: "syscallError", fields: "{calls: [statfs], errno: EIO}", mechanism: "fmod_ret", asks: askStatfs, needs: needs(kernel.FmodRetSyscall)},
	{kind: "syscallError", fields: "{calls: [statfs], errno: EIO}", mechanism: "kprobe_override", asks: askStatfs, needs: needs(kernel.KprobeOverride)},
	{kind: "syscallDelay", fields: "{calls: [openat], delay: forever}", mechanism: "sleepable_fmod_ret", asks: askStatfs, needs: tracing.SleepNeeds(kernel.SleepableFmodRet)},
	{kind: "syscallDelay", fields: "{calls: [openat], delay: forever}", mechanism: "sleepable_lsm", asks: askStatfs, needs: tracing.SleepNeeds(kernel.SleepableLSM)},
	{kind: "syscallDelay", fields: "{calls: [statfs], delay: forever}", mechanism: "task_work", asks: askStatfs, needs: tracing.SleepNeeds(kernel.TaskWork)},
	{kind: "fileDelay", fields: "{operations: [STATFS], path: @, delay: forever}", mechanism: "sleepable_lsm", asks: askStatfs, needs: tracing.SleepNeeds(kernel.SleepableLSM)},
	{kind: "fileDelay", fields: "{operations: [STATFS], path: @, delay: forever}", mechanism: "task_work", asks: askStatfs, needs: tracing.SleepNeeds(kernel.TaskWork)},
	{kind: "fileError", fields: "{operations: [STATFS], path: @, errno: EIO}", mechanism: "lsm", asks: askStatfs, needs: needs(kernel.LSM)},
	{kind: "fileError", fields: "{operations: [STATFS], path: @, errno: EIO}", mechanism: "fmod_ret_security", asks: askStatfs, needs: needs(kernel.FmodRetSecurity)},
	{kind: "socketError", fields: "{operations: [CONNECT], errno: EIO}", mechanism: "cgroup_sock", asks: askConnect, needs: needs(kernel.SetRetval)},
	{kind: "socketError", fields: "{operations: [CONNECT], errno: EIO}", mechanism: "lsm", asks: askConnect, needs: needs(kernel.LSM)},
	{kind: "socketError", fields: "{operations: [CONNECT], errno: EIO}", mechanism: "fmod_ret_security", asks: askConnect, needs: needs(kernel.FmodRetSecurity)},
	{kind: "dnsFault", fields: "{names: ['*'], answer: TIMEOUT}", asks: askName, needs: needs(kernel.CgroupConnect)},
	{kind: "diskError", fields: "{operations: [READ], device: /dev/vdb}", asks: askDisk, needs: needs(kernel.ShouldFailBio)},
	{kind: "processPause", fields: "{}", needs: needs(kernel.CgroupFreeze)},
}

// A run that is frozen renews nothing: its fault ends with the lease, by the
// kernel or by the guard, and when the run goes on it finds that and ends.
func TestFrozenRun(t *testing.T) {
	for _, kind := range faults.Catalogue() {
		if kind.Built() && !slices.ContainsFunc(freezings, func(f freezing) bool { return f.kind == kind.Name }) {
			t.Errorf("no run of %s is frozen", kind.Name)
		}
	}
	for _, f := range freezings {
		t.Run(f.name(), func(t *testing.T) {
			// The programs of fileError are large: to load several at once takes an emulated
			// machine longer than a lease. Two runs with kprobe_override and fmod_ret at one
			// function refuse each other.
			if f.kind != "fileError" && f.mechanism != "kprobe_override" {
				t.Parallel()
			}
			f.freeze(t)
		})
	}
}

func (f freezing) freeze(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "state"))
	prober := kernel.NewProber(w.root, slog.New(slog.DiscardHandler))
	for _, capability := range f.needs {
		if answer := prober.Probe(t.Context(), capability); !answer.OK() {
			kernels.Missing(t, string(capability), errors.New(answer.Reason))
		}
	}
	if f.file != "" {
		w.app = testenv.Child(t, testenv.Controlled(t, f.needs...), "app")
		w.chatter(w.app, 20*time.Millisecond)
	}
	asked := t.TempDir()
	f.fields = strings.ReplaceAll(f.fields, "@", asked)
	state := f.watch(w, asked)
	before := state()
	run := w.start(f.document(w))
	if err := testenv.Within(patience, func() error { return f.active(w) }); err != nil {
		t.Fatalf("%v\n%s", err, run.stderr)
	}
	if now := state(); f.file != "" && now == before {
		t.Errorf("%s is %q", f.file, now)
	}
	if err := run.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	if err := testenv.Within(patience, func() error {
		if now := processState(fmt.Sprintf("/proc/%d", run.cmd.Process.Pid)); now != "T" {
			return fmt.Errorf("the run is in state %s", now)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	during := state()
	if err := testenv.Within(patience, func() error {
		if now := state(); now == during {
			return fmt.Errorf("still %q", now)
		}
		return nil
	}); err != nil {
		t.Fatalf("the fault goes on: %v\n%s", err, run.stderr)
	}
	took := time.Since(frozen)
	lease, slack := frozenLease()
	t.Logf("the fault ended %s after the run was frozen; the lease is %s", took.Round(time.Millisecond), lease)
	if took > lease+slack {
		t.Errorf("the fault ended later than %s after its lease", slack)
	}
	if now := state(); f.file != "" && now != before {
		t.Errorf("%s is %q, and was %q", f.file, now, before)
	}
	if err := run.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	run.wants(exitAborted, "^ABORTED  frozen", "the lease of \""+f.kind+"\" ran out: nobody renewed it for "+lease.String(), "  rollback: VERIFIED")
	if err := errors.Join(w.untouched(), unpinnedBy(run)); err != nil {
		t.Error(err)
	}
}

// active is the error of a fault that has no effect. What counts as one takes
// its time with limits, which an idle cgroup does not reach.
func (f freezing) active(w *world) error {
	if f.file == "" {
		return w.active()
	}
	runs, err := journal.List(w.stateDir)
	for _, run := range runs {
		for _, fault := range run.Status.GetFaults() {
			if fault.GetState() == v1.FaultState_ACTIVE {
				return nil
			}
		}
	}
	return fmt.Errorf("no fault is active: %w", err)
}

func (f freezing) document(w *world) string {
	extra := ""
	lease, _ := frozenLease()
	if f.mechanism != "" {
		extra += ", mechanism: " + f.mechanism
	}
	if f.persistence != "" {
		extra += ", persistence: " + f.persistence
	}
	if f.mechanism == "cgroup_skb" {
		extra += ", filter: {direction: EGRESS}"
	}
	return fmt.Sprintf(`apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata: {name: frozen}
spec:
  leaseTimeout: %s
  steps:
  - faults:
    - {target: {cgroup: %s}, %s: %s, duration: 10m%s}
`, lease, w.below(w.app), f.kind, f.fields, extra)
}

// watch returns what tells of the fault: how many datagrams have arrived, what a file
// holds, or how often a question was answered.
func (f freezing) watch(w *world, asked string) func() string {
	if f.asks != "" {
		var ready string
		testenv.StartProgram(w.t, testenv.Cgroup(w.t), w.network.B, "echo", testenv.AddressB+":53").Read(&ready)
		answers := filepath.Join(w.t.TempDir(), "answers")
		testenv.StartProgram(w.t, w.app, w.network.A, "sh", "-c",
			"while kill -0 $PPID; do "+strings.ReplaceAll(f.asks, "@", asked)+" && echo >> "+answers+"; sleep 0.3; done >/dev/null 2>&1")
		return func() string {
			info, err := os.Stat(answers)
			if err != nil {
				return "0"
			}
			return fmt.Sprint(info.Size())
		}
	}
	if f.file != "" {
		return func() string { return testenv.ReadFile(w.t, w.app, f.file) }
	}
	if f.answered {
		answers := w.question()
		return func() string { return fmt.Sprint(answers.Load()) }
	}
	all, once, ordered := w.count()
	switch {
	case f.twice:
		return func() string { return fmt.Sprint(once.Load()) }
	case f.mixed:
		return func() string { return fmt.Sprint(ordered.Load()) }
	default:
		return func() string { return fmt.Sprint(all.Load()) }
	}
}

// count counts the datagrams that arrive on the other side, those that come
// once, and those that come behind ten others in the order in which they were
// sent.
func (w *world) count() (all, once, ordered *atomic.Int64) {
	w.t.Helper()
	var socket net.PacketConn
	w.network.B.Do(func() (err error) {
		socket, err = net.ListenPacket("udp", testenv.AddressB+":7000")
		return err
	})
	w.t.Cleanup(func() { _ = socket.Close() })
	all, once, ordered = &atomic.Int64{}, &atomic.Int64{}, &atomic.Int64{}
	go func() {
		buffer, before, times, last, row := make([]byte, 2048), "", 0, 0, 0
		for {
			n, _, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			all.Add(1)
			if text := string(buffer[:n]); text == before {
				times++
			} else {
				if times == 1 {
					once.Add(1)
				}
				before, times = text, 1
			}
			var number int
			if _, err := fmt.Sscanf(string(buffer[:n]), "chatter %d", &number); err != nil || number != last+1 {
				row = 0
			} else if row++; row > 10 {
				ordered.Add(1)
			}
			last = number
		}
	}()
	return all, once, ordered
}

// question asks the application from the other side, again and again, and counts
// the answers.
func (w *world) question() (answers *atomic.Int64) {
	w.t.Helper()
	const application = testenv.AddressA + ":7001"
	var ready string
	testenv.StartProgram(w.t, w.app, w.network.A, "echo", application).Read(&ready)
	var connection net.Conn
	w.network.B.Do(func() (err error) {
		connection, err = net.Dial("udp", application)
		return err
	})
	w.t.Cleanup(func() { _ = connection.Close() })
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			if _, err := fmt.Fprintln(connection, "question"); err != nil {
				return
			}
		}
	}()
	answers = &atomic.Int64{}
	go func() {
		for buffer := make([]byte, 2048); ; answers.Add(1) {
			if _, err := connection.Read(buffer); err != nil {
				return
			}
		}
	}()
	return answers
}

// running is `faultline run` in a process of its own.
type running struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr *buffer
}

// start runs a document.
func (w *world) start(document string) *running {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "experiment.yaml")
	if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
		w.t.Fatal(err)
	}
	r := &running{t: w.t, cmd: exec.Command("faultline", "run", path, "--state-dir", w.stateDir), stdout: new(buffer), stderr: new(buffer)}
	r.cmd.Stdout, r.cmd.Stderr = r.stdout, r.stderr
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	return r
}

// wants waits for the end, and looks for the exit code and for texts in the
// answer.
func (r *running) wants(code int, texts ...string) {
	r.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.cmd.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		r.t.Fatalf("the run does not end\n%s", r.stderr)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Errorf("exit code is %d, wanted %d\n%s%s", got, code, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains("\n"+r.stdout.String(), strings.Replace(text, "^", "\n", 1)) {
			r.t.Errorf("nothing says %q\n%s", text, r.stdout)
		}
	}
}

// unpinnedBy is the error of pins of a run that are left: others have theirs.
func unpinnedBy(r *running) error {
	_, id, _ := strings.Cut(r.stdout.String(), "\n  run ")
	id, _, found := strings.Cut(id, ",")
	if _, err := os.Lstat(filepath.Join(pin.Root, id)); !found || !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("run %s has left pins: %w", id, err)
	}
	return nil
}
