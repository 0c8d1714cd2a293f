package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func (a *app) stopCommand() *cobra.Command {
	var all bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop [RUN...]",
		Short: "End runs on this machine: they take everything back",
		Long: `Asks runs, given by id or name, to end, and waits until they have taken
everything back. Without RUN all runs on this machine are ended.

Exit status: 0 when all have ended and nothing is left behind, 3 when one could
not be ended, 6 when something is left behind (see revert).`,
		Example: `  faultline stop
  faultline stop checkout-slow-db`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			runs, _ := journal.List(a.stateDir)
			for _, run := range runs {
				if run.Alive {
					names = append(names, run.ID+"\t"+run.Name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every run, as without RUN")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the runs to end")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all && len(args) > 0 {
			return usage(errors.New("--all and RUN exclude each other; give one"))
		}
		runs, err := journal.List(a.stateDir)
		if err != nil {
			return err
		}
		chosen, err := choose(runs, args)
		if err != nil {
			return usage(err)
		}
		ctx, cancel := a.interruptible(cmd.Context())
		defer cancel()
		ctx, cancelTimeout := context.WithTimeout(ctx, timeout)
		defer cancelTimeout()
		stopErr := a.stop(ctx, chosen)

		left, err := journal.List(a.stateDir)
		if err != nil {
			return errors.Join(stopErr, err)
		}
		left = slices.DeleteFunc(left, func(r journal.Run) bool {
			return !slices.ContainsFunc(chosen, func(c journal.Run) bool { return c.ID == r.ID })
		})
		status := nodeStatus(left)
		err = a.print(*output, status, func(p *page) { writeStopped(p, chosen, left, status) })
		if err := errors.Join(stopErr, err); err != nil {
			if cause := interrupted(ctx); cause != nil {
				return cause
			}
			return err
		}
		return silent(remnantCode(status))
	}
	return cmd
}

// choose returns the runs that are alive and have one of the names or ids; all
// that are alive for no names.
func choose(runs []journal.Run, names []string) ([]journal.Run, error) {
	runs = slices.DeleteFunc(slices.Clone(runs), func(r journal.Run) bool { return !r.Alive })
	if len(names) == 0 {
		return runs, nil
	}
	var chosen []journal.Run
	for _, name := range names {
		found := false
		for _, run := range runs {
			if run.ID != name && run.Name != name {
				continue
			}
			found = true
			if !slices.ContainsFunc(chosen, func(c journal.Run) bool { return c.ID == run.ID }) {
				chosen = append(chosen, run)
			}
		}
		if found {
			continue
		}
		var known []string
		for _, run := range runs {
			known = append(known, run.Name+" ("+run.ID+")")
		}
		if len(known) == 0 {
			return nil, fmt.Errorf("no run %q: nothing runs", name)
		}
		return nil, fmt.Errorf("no run %q: running are %s", name, strings.Join(known, ", "))
	}
	return chosen, nil
}

// stop ends the runs, all at once, and waits. A run that ended by itself is as
// good.
func (a *app) stop(ctx context.Context, runs []journal.Run) error {
	errs := make([]error, len(runs))
	var stopping sync.WaitGroup
	for i, run := range runs {
		fmt.Fprintf(a.talk, "faultline: stopping %s (%s), pid %d\n", run.Name, run.ID, run.PID)
		stopping.Go(func() {
			if err := journal.Stop(ctx, run); !errors.Is(err, journal.ErrNotRunning) {
				errs[i] = err
			}
		})
	}
	stopping.Wait()
	return errors.Join(errs...)
}

func writeStopped(p *page, chosen, left []journal.Run, status *v1.NodeStatus) {
	if len(chosen) == 0 {
		p.line("Nothing runs.")
		return
	}
	for _, run := range chosen {
		i := slices.IndexFunc(left, func(l journal.Run) bool { return l.ID == run.ID })
		word := p.good("ended, everything is taken back")
		switch {
		case i >= 0 && left[i].Alive:
			word = p.bad("still runs")
		case i >= 0:
			word = p.bad("ended, something is left behind")
		}
		p.line("%s (%s): %s", strip(run.Name), run.ID, word)
	}
	if remnantCode(status) != exitPassed {
		writeRemnants(p, status)
	}
}
