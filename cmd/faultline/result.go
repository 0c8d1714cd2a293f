package main

import (
	"fmt"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// writeResult is the summary of a run.
func writeResult(p *page, r *v1.Result, events int) {
	took := r.GetEndTime().AsTime().Sub(r.GetStartTime().AsTime())
	p.line("%s  %s", p.verdict(r.GetVerdict()), p.bold(r.GetName()))
	p.paragraph("  ", strip(r.GetReason()))
	p.line("  run %s, seed %d, %s", r.GetRunId(), r.GetSeed(), short(took))
	if r.GetObserve() {
		p.line("  observe: nothing was hit, the counters say what would have been")
	}
	if r.GetRollback() == v1.Rollback_FAILED {
		p.line("  rollback: %s", p.bad("FAILED"))
		for _, d := range r.GetDifferences() {
			p.paragraph("    ", strip(d))
		}
		p.line("  See faultline status; faultline revert tries again.")
	} else {
		p.line("  rollback: %s", p.good(r.GetRollback().String()))
	}

	if len(r.GetFaults()) > 0 {
		p.line("")
		var rows [][]cell
		for _, f := range r.GetFaults() {
			rows = append(rows, []cell{
				text(f.GetName()), text(f.GetMechanism()), p.state(f.GetState()),
				number(f.GetMatched()), number(f.GetInjected()), number(f.GetMissed()),
				text(describeTarget(f.GetTarget())),
			})
		}
		p.table([]string{"FAULT", "MECHANISM", "STATE", "MATCHED", "INJECTED", "MISSED", "TARGET"}, rows)
	}
	for _, f := range r.GetFaults() {
		if f.GetError() != "" {
			p.paragraph("", strip(fmt.Sprintf("%s: %s", f.GetName(), f.GetError())))
		}
		for _, w := range f.GetWarnings() {
			p.paragraph("", strip(fmt.Sprintf("%s: warning: %s", f.GetName(), w)))
		}
	}
	if len(r.GetProbes()) > 0 {
		p.line("")
		var rows [][]cell
		for _, probe := range r.GetProbes() {
			outcome := cell{text: "passed", paint: p.good}
			if !probe.GetPassed() {
				outcome = cell{text: "failed", paint: p.bad}
			}
			rows = append(rows, []cell{
				text(probe.GetName()), outcome, number(probe.GetAttempts()), number(probe.GetFailures()), text(strip(probe.GetError())),
			})
		}
		p.table([]string{"PROBE", "OUTCOME", "ATTEMPTS", "FAILURES", "LAST ERROR"}, rows)
	}
	writeEvents(p, r, events)
}

// writeEvents prints some of what was hit.
func writeEvents(p *page, r *v1.Result, most int) {
	var rows [][]cell
	for _, f := range r.GetFaults() {
		for _, e := range f.GetEvents()[:min(max(most, 0), len(f.GetEvents()))] {
			rows = append(rows, []cell{
				text(e.GetTime().AsTime().Local().Format("15:04:05.000")), text(f.GetName()), text(strip(describeEvent(e))),
			})
		}
	}
	if len(rows) == 0 {
		return
	}
	p.line("")
	p.table([]string{"SAMPLED", "FAULT", "WHAT"}, rows)
}

func describeEvent(e *v1.Event) string {
	parts := []string{e.GetWhat()}
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	add(e.GetProtocol())
	switch {
	case e.GetLocal() != "" && e.GetPeer() != "" && e.GetWhat() == "ingress":
		add(e.GetPeer() + " -> " + e.GetLocal())
	case e.GetLocal() != "" && e.GetPeer() != "":
		add(e.GetLocal() + " -> " + e.GetPeer())
	default:
		add(e.GetLocal() + e.GetPeer())
	}
	add(e.GetPath())
	add(e.GetErrno())
	if e.GetBytes() > 0 {
		add(fmt.Sprintf("%d bytes", e.GetBytes()))
	}
	if e.GetPid() > 0 {
		add(strings.TrimSpace(fmt.Sprintf("pid %d %s", e.GetPid(), e.GetCommand())))
	}
	return strings.Join(parts, " ")
}

// verdict is painted; its word says all.
func (p *page) verdict(v v1.Verdict) string {
	switch v {
	case v1.Verdict_PASSED:
		return p.good(v.String())
	case v1.Verdict_NO_EFFECT, v1.Verdict_ABORTED:
		return p.warn(v.String())
	default:
		return p.bad(v.String())
	}
}

func (p *page) state(s v1.FaultState) cell {
	c := text(stateWord(s))
	if s == v1.FaultState_REVERT_FAILED || s == v1.FaultState_NOT_INJECTED {
		c.paint = p.bad
	}
	return c
}

// describeTarget is a target as it was given, and how many cgroups that is
// where it is more than one.
func describeTarget(t *v1.ResolvedTarget) string {
	text := givenTarget(t.GetGiven())
	if n := len(t.GetCgroups()); n > 1 {
		text += fmt.Sprintf(" (%d cgroups)", n)
	}
	return strip(text)
}

func strip(s string) string { return style{}.strip(s) }

// seconds is a duration in the form of JUnit.
func seconds(from, to time.Time) string {
	if from.IsZero() || to.Before(from) {
		return "0.000"
	}
	return fmt.Sprintf("%.3f", to.Sub(from).Seconds())
}
