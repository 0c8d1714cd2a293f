//go:build linux && privileged

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// A run with the mechanism whose remnants the kernel keeps is killed together
// with its guard: the lease ends the fault, the journal knows what is left, and
// revert removes it.
func TestKilledRunIsReverted(t *testing.T) {
	l := newLab(t)
	if answer := l.engine.Prober.Probe(t.Context(), kernel.ClsBPF); !answer.OK() {
		kernels.Missing(t, string(kernel.ClsBPF), errors.New(answer.Reason))
	}
	before := l.network.A.Run("tc", "qdisc", "show", "dev", env.Veth)
	p := l.startRun(strings.NewReplacer("2s", "10m", "percent: 50}", "percent: 100}\n      mechanism: cls_bpf").Replace(oneLoss))
	if _, lost := l.traffic.Exchange(); len(lost) != l.traffic.Count {
		t.Fatalf("lost %d of %d", len(lost), l.traffic.Count)
	}
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	(&arena{lab: l}).killGuards()
	p.Kill()
	l.untouched()
	if during := l.network.A.Run("tc", "filter", "show", "dev", env.Veth, "egress"); !strings.Contains(during, "faultline-") {
		t.Errorf("the killed run left no filter: the test shows nothing\n%s", during)
	}
	report, err := journal.Revert(t.Context(), l.engine.StateDir, faults.DecodeUndo)
	if err != nil || len(report.GetUndone()) == 0 || len(report.GetFailed()) > 0 {
		t.Errorf("revert: %v, %v", report, err)
	}
	if after := l.network.A.Run("tc", "qdisc", "show", "dev", env.Veth); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// The program of a probe ends with the run.
func TestKilledRunLeavesNoProbe(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(t.TempDir(), "pid")
	p := l.startRun(strings.Replace(oneLoss, "2s", "10m", 1) + `
  probes:
  - {name: hangs, when: DURING, timeout: 10m, command: {command: [sh, -c, 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec tail -f /dev/null', ` + file + `]}}
`)
	var pid int
	if err := env.Within(patience, func() (err error) {
		text, err := os.ReadFile(file)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := env.Within(patience, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there (%w)", pid, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A frozen process renews nothing: the kernel ends the fault, and it stays
// ended when the process goes on.
func TestFrozenRunEndsByItsLease(t *testing.T) {
	l := newLab(t)
	p := l.startRun(strings.Replace(strings.Replace(oneLoss, "2s", "10m", 1), "seed: 7", "leaseTimeout: 1s", 1))
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	err := env.Within(10*time.Second, func() error {
		if _, lost := l.traffic.Exchange(); len(lost) > 0 {
			return fmt.Errorf("%d packets are still lost", len(lost))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(p.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var result v1.Result
	if err := protojson.Unmarshal([]byte(p.Line()), &result); err != nil {
		t.Fatal(err)
	}
	l.want(&result, v1.Verdict_ABORTED, "ran out")
	l.untouched()
}

// startRun runs an experiment in a process of its own, and returns when its
// fault is active.
func (l *lab) startRun(text string) *env.Process {
	l.t.Helper()
	encoded, err := proto.Marshal(l.experiment(text))
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(l.t.TempDir(), "experiment")
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		l.t.Fatal(err)
	}
	p := env.Start(l.t, l.neighbour, nil, "run", path, l.engine.StateDir, l.engine.CgroupRoot)
	var state string
	p.Read(&state)
	return p
}

// runToBeKilled runs an experiment and says when it is active.
func runToBeKilled(_ io.Reader, out *json.Encoder, args []string) error {
	encoded, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var experiment v1.Experiment
	if err := proto.Unmarshal(encoded, &experiment); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	told := false
	result, err := newEngine(args[1], args[2]).Run(ctx, &experiment, func(status *v1.RunStatus) {
		if !told && status.GetFaults()[0].GetState() == v1.FaultState_ACTIVE {
			told = true
			_ = out.Encode("active")
		}
	})
	if err != nil {
		return err
	}
	text, err := protojson.Marshal(result)
	if err != nil {
		return err
	}
	return out.Encode(json.RawMessage(text))
}

// revertToBeKilled undoes what runs have left.
func revertToBeKilled(_ io.Reader, _ *json.Encoder, args []string) error {
	_, err := journal.Revert(context.Background(), args[0], faults.DecodeUndo)
	return err
}
