package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/agent/engine"
	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func (a *app) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume [RUN]",
		Short: "Take over a run whose process has died and whose faults are pinned",
		Long: `Takes over a run whose faults have persistence PINNED and whose process has died:
the faults have gone on meanwhile, and go on until their time is over, with
counters that miss nothing. It must come before the leases have run out
(leaseTimeout); after that the faults have ended and are taken back.

Without RUN the only run that can be taken over is. Exit status: as that of run.`,
		Example: `  faultline resume
  faultline resume checkout-slow-db --output json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(fmt.Errorf("%s takes one run, %d given", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			runs, _ := (&engine.Engine{StateDir: a.stateDir}).Resumable()
			for _, run := range runs {
				names = append(names, run.ID+"\t"+run.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := a.reportFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		runs, err := (&engine.Engine{StateDir: a.stateDir}).Resumable()
		if err != nil {
			return err
		}
		run, err := chooseResumable(runs, args)
		if err != nil {
			return usage(err)
		}
		return a.conduct(cmd.Context(), "resume", f, &v1.Experiment{Metadata: &v1.Metadata{Name: run.Name}},
			func(ctx context.Context, e *engine.Engine, progress func(*v1.RunStatus)) (*v1.Result, error) {
				return e.Resume(ctx, run, progress)
			})
	}
	return cmd
}

// chooseResumable returns the run of that id or name, or the only one.
func chooseResumable(runs []journal.Run, args []string) (journal.Run, error) {
	if len(args) > 0 {
		i := slices.IndexFunc(runs, func(r journal.Run) bool { return r.ID == args[0] || r.Name == args[0] })
		if i < 0 {
			return journal.Run{}, fmt.Errorf("no run %q that could be resumed: %s", args[0], listed(runs))
		}
		return runs[i], nil
	}
	if len(runs) != 1 {
		return journal.Run{}, fmt.Errorf("which run? %s", listed(runs))
	}
	return runs[0], nil
}

func listed(runs []journal.Run) string {
	if len(runs) == 0 {
		return "there is none whose process has died, whose faults are pinned, and whose leases still run"
	}
	var names []string
	for _, run := range runs {
		names = append(names, run.Name+" ("+run.ID+")")
	}
	return "there are " + strings.Join(names, ", ")
}
