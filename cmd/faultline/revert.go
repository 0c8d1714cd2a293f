package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
)

// killTimeout is how long revert --all waits for what it has killed, and for
// guards to end their work.
const killTimeout = 10 * time.Second

func (a *app) revertCommand() *cobra.Command {
	var all bool
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "revert",
		Short: "Take back what runs that have died left behind",
		Long: `Undoes, from the journals, what runs left behind whose process was killed or
whose revert failed. It needs no daemon and may be repeated. Runs that are alive
are left alone; --all ends them first: it asks, and kills those that don't end
within the grace time. --all then looks for everything else on this machine that
has the mark of faultline and no process that owns it: pins, packet filters,
cgroups of probes.

Exit status: 0 when nothing is left, 6 when something could not be taken back.`,
		Example: `  faultline revert
  faultline revert --all`,
		Args: noArgs,
	}
	cmd.Flags().BoolVar(&all, "all", false, "end the runs that are alive first, and look for remnants without a journal")
	cmd.Flags().DurationVar(&grace, "grace", 10*time.Second, "how long a run may take to end before it is killed, with --all")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot("revert"); err != nil {
			return err
		}
		var stopErr error
		if all {
			stopErr = a.endAll(cmd.Context(), grace)
		}
		// Signals don't end this: what is half undone is undone.
		report, err := journal.Revert(cmd.Context(), a.stateDir, faults.DecodeUndo)
		if all {
			err = errors.Join(err, revertRemnants(cmd.Context(), report))
		}
		if err == nil || len(report.GetUndone())+len(report.GetFailed()) > 0 {
			err = errors.Join(err, a.print(*output, report, func(p *page) { writeRevert(p, report) }))
		}
		if err := errors.Join(stopErr, err); err != nil {
			a.complain(err)
			if len(report.GetFailed()) == 0 {
				return silent(exitCode(err))
			}
		}
		if len(report.GetFailed()) > 0 {
			return silent(exitRevert)
		}
		return nil
	}
	return cmd
}

// endAll ends every run on this machine, one way or another.
func (a *app) endAll(ctx context.Context, grace time.Duration) error {
	runs, err := journal.List(a.stateDir)
	if err != nil {
		return err
	}
	alive, _ := choose(runs, nil)
	stopping, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := a.stop(stopping, alive); err == nil {
		return nil
	}
	ctx, cancel = context.WithTimeout(ctx, killTimeout)
	defer cancel()
	var errs []error
	for _, run := range alive {
		now, found, err := journal.Find(a.stateDir, run.ID)
		if err != nil || !found || !now.Alive {
			continue
		}
		fmt.Fprintf(a.talk, "faultline: %s (%s), pid %d, does not end within %s; killing it\n", run.Name, run.ID, now.PID, grace)
		if err := journal.Kill(ctx, now); err != nil && !errors.Is(err, journal.ErrNotRunning) {
			errs = append(errs, err)
		}
		// Its guard has the run now, until everything is taken back.
		errs = append(errs, a.released(ctx, run.ID))
	}
	return errors.Join(errs...)
}

// released waits until no process has a run.
func (a *app) released(ctx context.Context, runID string) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		run, found, err := journal.Find(a.stateDir, runID)
		if err != nil || !found || !run.Alive {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d still has run %s", run.PID, runID)
		}
	}
}

// revertRemnants undoes what no journal knows of.
func revertRemnants(ctx context.Context, report *v1.RevertReport) error {
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	undos, err := faults.Remnants(ctx, root)
	for _, undo := range undos {
		r := &v1.Remnant{Kind: undo.Kind(), Description: undo.Describe() + " (no journal knows of it)"}
		if err := undo.Undo(ctx); err != nil {
			r.Error = err.Error()
			report.Failed = append(report.Failed, r)
			continue
		}
		report.Undone = append(report.Undone, r)
	}
	if err != nil {
		return fmt.Errorf("looking for remnants: %w", err)
	}
	return nil
}

func writeRevert(p *page, r *v1.RevertReport) {
	if len(r.GetUndone())+len(r.GetFailed()) == 0 {
		p.line("Nothing was left behind.")
		return
	}
	show := func(title string, list []*v1.Remnant) {
		if len(list) == 0 {
			return
		}
		var rows [][]cell
		for _, one := range list {
			rows = append(rows, remnantRow(one))
		}
		p.table([]string{"RUN", "FAULT", title}, rows)
	}
	show("TAKEN BACK", r.GetUndone())
	if len(r.GetUndone()) > 0 && len(r.GetFailed()) > 0 {
		p.line("")
	}
	show("COULD NOT BE TAKEN BACK", r.GetFailed())
	if len(r.GetFailed()) > 0 {
		p.line("%s", p.bad(fmt.Sprintf("%s could not be taken back; faultline revert tries again.", count(len(r.GetFailed()), "thing"))))
	}
}
