//go:build linux && privileged

package engine_test

import (
	"errors"
	"strings"
	"testing"

	"faultline.dev/faultline/agent/engine"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/env"
)

// pinnedLoss loses half of the packets, and goes on when its process is killed.
func pinnedLoss(lease, duration string) string {
	return strings.NewReplacer(
		"seed: 7", "seed: 7\n  leaseTimeout: "+lease,
		"2s", duration+"\n      persistence: PINNED",
	).Replace(oneLoss)
}

// A run is killed, goes on in the kernel, and another process takes it over to
// its end: every lost packet is counted once.
func TestKilledRunIsResumed(t *testing.T) {
	a := newArena(t)
	p := a.startRun(pinnedLoss("30s", "6s"))
	_, first := a.traffic.Exchange()
	p.Kill()
	_, orphaned := a.traffic.Exchange()
	if len(orphaned) == 0 {
		t.Error("nothing was lost while no process had the run")
	}
	runs, err := a.engine.Resumable()
	if err != nil || len(runs) != 1 {
		t.Fatalf("resumable: %v, %v", runs, err)
	}
	var last []int
	begun := make(chan struct{})
	told := false
	result, err := a.engine.Resume(t.Context(), runs[0], func(status *v1.RunStatus) {
		if f := status.GetFaults(); !told && len(f) > 0 && f[0].GetState() == v1.FaultState_ACTIVE {
			told = true
			go func() {
				defer close(begun)
				_, last = a.traffic.Exchange()
			}()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	a.want(result, v1.Verdict_PASSED, "had effect")
	f := result.GetFaults()[0]
	if lost := len(first) + len(orphaned) + len(last); int(f.GetInjected()) != lost || int(f.GetMatched()) != 3*a.traffic.Count || len(last) == 0 {
		t.Errorf("lost %d+%d+%d; the result says %d of %d", len(first), len(orphaned), len(last), f.GetInjected(), f.GetMatched())
	}
	if result.GetRunId() != runs[0].ID || result.GetSeed() != 7 {
		t.Errorf("it became run %s with seed %d", result.GetRunId(), result.GetSeed())
	}
	if err := a.guardless(); err != nil {
		t.Error(err)
	}
	if err := a.nothingLeft(); err != nil {
		t.Error(err)
	}
}

// Nobody takes the run over: the kernel ends the fault with its lease, and the
// guard removes what is pinned.
func TestPinnedRunEndsByItsLease(t *testing.T) {
	a := newArena(t)
	p := a.startRun(pinnedLoss("2s", "10m"))
	p.Kill()
	if err := a.guardless(); err != nil {
		t.Error(err)
	}
	a.untouched()
	if err := a.nothingLeft(); err != nil {
		t.Error(err)
	}
}

func TestRunIsResumedTooLate(t *testing.T) {
	a := newArena(t)
	p := a.startRun(pinnedLoss("1s", "10m"))
	runs, err := a.engine.Resumable()
	if err != nil || len(runs) != 0 {
		t.Fatalf("a run that is alive is resumable: %v, %v", runs, err)
	}
	a.killGuards()
	p.Kill()
	run := a.deadRun()
	if err := env.Within(patience, func() error {
		if _, lost := a.traffic.Exchange(); len(lost) > 0 {
			return errors.New("packets are still lost")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	result, err := a.engine.Resume(t.Context(), run, nil)
	if !errors.Is(err, engine.ErrNotResumable) || result.GetRollback() != v1.Rollback_VERIFIED || !strings.Contains(result.GetReason(), "lease") {
		t.Errorf("%v\n%v", result, err)
	}
	if err := a.nothingLeft(); err != nil {
		t.Error(err)
	}
}
