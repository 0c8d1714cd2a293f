package engine

import (
	"errors"
	"fmt"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// judge sets verdict and reason. err is what kept the run from its end.
func (r *run) judge(err error) {
	result := r.result
	if result.GetRollback() == v1.Rollback_STATE_UNSPECIFIED {
		// The run ended before anything was touched.
		result.Rollback = v1.Rollback_VERIFIED
	}
	set := func(verdict v1.Verdict, format string, args ...any) {
		result.Verdict, result.Reason = verdict, fmt.Sprintf(format, args...)
	}
	failed := failedProbe(result)
	var byProbe probeFailed
	switch {
	case err != nil:
		set(v1.Verdict_ERROR, "%v", err)
	case errors.As(r.early, &byProbe):
		set(v1.Verdict_FAILED, "%v; the run was ended early", r.early)
	case r.early != nil:
		set(v1.Verdict_ABORTED, "%v", r.early)
	case r.observes():
		set(v1.Verdict_PASSED, "observed only: the counters say what would have been hit")
	case failed != nil:
		set(v1.Verdict_FAILED, "probe %q failed %d of %d times: %s", failed.GetName(), failed.GetFailures(), failed.GetAttempts(), failed.GetError())
	case r.idle() != nil:
		f := r.idle()
		set(v1.Verdict_NO_EFFECT, "fault %q hit nothing: %d events matched its filter, %d were missed", f.GetName(), f.GetMatched(), f.GetMissed())
	default:
		set(v1.Verdict_PASSED, "every fault had effect and every probe passed")
		if len(result.GetProbes()) == 0 {
			result.Reason = "every fault had effect"
		}
	}
}

// observes tells whether nothing was to be hit.
func (r *run) observes() bool {
	for _, a := range r.faults {
		if !r.spec.GetObserve() && !a.planned.spec.GetObserve() {
			return false
		}
	}
	return true
}

func failedProbe(result *v1.Result) *v1.ProbeResult {
	for _, p := range result.GetProbes() {
		if !p.GetPassed() {
			return p
		}
	}
	return nil
}

// idle is a fault that was to hit something and did not.
func (r *run) idle() *v1.FaultResult {
	for _, a := range r.faults {
		if a.result.GetInjected() == 0 && !a.planned.spec.GetObserve() {
			return a.result
		}
	}
	return nil
}
