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

// stopTimeout is how long revert --all waits for runs to end.
const stopTimeout = time.Minute

func (a *app) revertCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "revert",
		Short: "Take back what runs that have died left behind",
		Long: `Undoes, from the journals, what runs left behind whose process was killed or
whose revert failed. It needs no daemon and may be repeated. Runs that are alive
are left alone; --all ends them first.

Exit status: 0 when nothing is left, 6 when something could not be taken back.`,
		Example: `  faultline revert
  faultline revert --all`,
		Args: noArgs,
	}
	cmd.Flags().BoolVar(&all, "all", false, "end the runs that are alive first")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot("revert"); err != nil {
			return err
		}
		var stopErr error
		if all {
			runs, err := journal.List(a.stateDir)
			if err != nil {
				return err
			}
			alive, _ := choose(runs, nil)
			ctx, cancel := context.WithTimeout(cmd.Context(), stopTimeout)
			stopErr = a.stop(ctx, alive)
			cancel()
		}
		// Signals don't end this: what is half undone is undone.
		report, err := journal.Revert(cmd.Context(), a.stateDir, faults.DecodeUndo)
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
