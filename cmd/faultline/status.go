package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// phaseDead is the phase of a run whose process is gone.
const phaseDead = "dead"

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs on this machine and what is left of earlier runs",
		Long: `Shows the runs on this machine with their faults, counters and probes, and what
runs that have died left behind.

Exit status: 0 when nothing is left behind, 6 when something waits to be taken
back (see revert).`,
		Example: `  faultline status
  faultline status --output json`,
		Args: noArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		runs, err := journal.List(a.stateDir)
		if err != nil {
			return err
		}
		status := nodeStatus(runs)
		a.markResumable(status)
		if err := a.print(*output, status, func(p *page) { writeStatus(p, status, a.now()) }); err != nil {
			return err
		}
		return silent(remnantCode(status))
	}
	return cmd
}

// phaseResumable is the phase of a run whose process is gone and whose pinned
// faults go on.
const phaseResumable = "waiting to be resumed"

// markResumable tells runs that can be taken over from those that left
// something behind: what is theirs is where it should be.
func (a *app) markResumable(s *v1.NodeStatus) {
	resumable, err := (&engine.Engine{StateDir: a.stateDir}).Resumable()
	if err != nil {
		return // listed as dead
	}
	for _, run := range resumable {
		for _, status := range s.GetRuns() {
			if status.GetRunId() == run.ID {
				status.Phase = phaseResumable
			}
		}
		s.Remnants = slices.DeleteFunc(s.Remnants, func(r *v1.Remnant) bool { return r.GetRunId() == run.ID && r.GetError() == "" })
	}
}

// remnantCode is 6 when something of a dead run waits to be taken back.
func remnantCode(s *v1.NodeStatus) int {
	for _, r := range s.GetRemnants() {
		if !r.GetOwnerAlive() || r.GetError() != "" {
			return exitRevert
		}
	}
	return exitPassed
}

// nodeStatus is what the journals say, as plain data.
func nodeStatus(runs []journal.Run) *v1.NodeStatus {
	status := &v1.NodeStatus{}
	for _, run := range runs {
		s := &v1.RunStatus{}
		if run.Status != nil {
			s = proto.CloneOf(run.Status)
		}
		s.RunId, s.Name, s.Pid = run.ID, run.Name, int32(run.PID)
		if s.StartTime == nil && !run.StartTime.IsZero() {
			s.StartTime = timestamppb.New(run.StartTime)
		}
		if !run.Alive {
			s.Phase, s.Remaining = phaseDead, nil
		}
		status.Runs = append(status.Runs, s)
		status.Remnants = append(status.Remnants, run.Open...)
		if run.Err != nil {
			status.Remnants = append(status.Remnants, &v1.Remnant{
				RunId:       run.ID,
				Kind:        "journal",
				Description: "records that can't be read in " + run.Dir,
				OwnerAlive:  run.Alive,
				Error:       run.Err.Error(),
			})
		}
	}
	return status
}

func writeStatus(p *page, s *v1.NodeStatus, now time.Time) {
	if len(s.GetRuns()) == 0 {
		p.line("Nothing runs, nothing is left behind.")
		return
	}
	for i, run := range s.GetRuns() {
		if i > 0 {
			p.line("")
		}
		writeRunStatus(p, run, now)
	}
	writeRemnants(p, s)
}

func writeRunStatus(p *page, run *v1.RunStatus, now time.Time) {
	head := p.bold(strip(run.GetName())) + "  " + run.GetRunId()
	if run.GetPhase() == phaseDead {
		p.line("%s  %s", head, p.warn("dead: its process has ended without a word"))
	} else {
		var parts []string
		if run.GetPid() != 0 {
			parts = append(parts, fmt.Sprintf("pid %d", run.GetPid()))
		}
		if run.GetPhase() != "" {
			parts = append(parts, run.GetPhase())
		}
		if run.GetStartTime() != nil {
			parts = append(parts, "for "+short(now.Sub(run.GetStartTime().AsTime())))
		}
		if left := run.GetRemaining().AsDuration(); left > 0 {
			parts = append(parts, short(left)+" left")
		}
		p.line("%s  %s", head, strip(strings.Join(parts, ", ")))
	}
	if len(run.GetFaults()) > 0 {
		var rows [][]cell
		for _, f := range run.GetFaults() {
			state := p.state(f.GetState())
			if run.GetPhase() == phaseDead {
				state = cell{text: "was " + state.text}
			}
			rows = append(rows, []cell{
				text("  " + f.GetName()), text(f.GetMechanism()), state,
				number(f.GetMatched()), number(f.GetInjected()), number(f.GetMissed()), text(describeTarget(f.GetTarget())),
			})
		}
		p.table([]string{"  FAULT", "MECHANISM", "STATE", "MATCHED", "INJECTED", "MISSED", "TARGET"}, rows)
	}
	if len(run.GetProbes()) > 0 {
		var rows [][]cell
		for _, probe := range run.GetProbes() {
			outcome := cell{text: "ok", paint: p.good}
			if probe.GetFailures() > 0 {
				outcome = cell{text: "failed", paint: p.bad}
			} else if probe.GetAttempts() == 0 {
				outcome = cell{text: "waiting"}
			}
			rows = append(rows, []cell{text("  " + probe.GetName()), outcome, number(probe.GetAttempts()), number(probe.GetFailures()), text(strip(probe.GetError()))})
		}
		p.table([]string{"  PROBE", "OUTCOME", "ATTEMPTS", "FAILURES", "LAST ERROR"}, rows)
	}
}

// writeRemnants lists what waits to be taken back. What a run that is alive
// has open is its own business.
func writeRemnants(p *page, s *v1.NodeStatus) {
	var rows [][]cell
	for _, r := range s.GetRemnants() {
		if r.GetOwnerAlive() && r.GetError() == "" {
			continue
		}
		rows = append(rows, remnantRow(r))
	}
	p.line("")
	if len(rows) == 0 {
		p.line("Nothing is left behind.")
		return
	}
	p.line("%s", p.bad(count(len(rows), "thing")+" left behind; faultline revert takes back what it can:"))
	p.table([]string{"RUN", "FAULT", "LEFT BEHIND"}, rows)
}

func remnantRow(r *v1.Remnant) []cell {
	what := r.GetDescription()
	if r.GetError() != "" {
		what += ": " + r.GetError()
	}
	return []cell{text(r.GetRunId()), text(r.GetFault()), text(strip(what))}
}
