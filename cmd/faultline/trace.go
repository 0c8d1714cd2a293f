package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/agent/trace"
	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults"
)

func (a *app) traceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace --target TARGET",
		Short: "Count what a target calls, to choose what to let fail; changes nothing",
		Long: `Counts the system calls of a target when they return, by their results, and prints
the most frequent first. Nothing is changed, and the target hardly notices.

TARGET is cgroup=PATH, unit=NAME or pid=NUMBER (all of the process's cgroup). It
ends after --duration, or with Ctrl-C, and prints what it has.

Exit status: 0; 2 when the call is wrong; 3 when it can't be done here.`,
		Example: `  faultline trace --target unit=shop.service
  faultline trace --target unit=shop.service --calls openat,unlinkat --paths --duration 1m
  faultline trace --target pid=1234 --output json`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	given := flags.String("target", "", "whose calls count: `target` is cgroup=PATH, unit=NAME or pid=NUMBER (required)")
	calls := flags.StringSlice("calls", nil, "the `names` of the calls that are shown; default all")
	paths := flags.Bool("paths", false, "show the paths that calls are given too")
	top := flags.Int("top", 30, "how many `lines` of calls, and of paths, are shown; 0 for all")
	duration := flags.Duration("duration", 10*time.Second, "how long it counts; 0 until Ctrl-C")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options := trace.Options{Calls: *calls, Paths: *paths, Duration: *duration}
		target, err := readTarget(*given)
		if err == nil {
			err = options.Validate()
		}
		switch {
		case err != nil:
			return usage(err)
		case *duration < 0:
			return usage(fmt.Errorf("--duration %s is below 0", *duration))
		case *top < 0:
			return usage(fmt.Errorf("--top %d is below 0", *top))
		}
		if err := requireRoot("trace"); err != nil {
			return err
		}
		ctx, stop := a.interruptible(cmd.Context())
		defer stop()
		result, err := a.trace(ctx, target, options)
		if err != nil {
			return &exitError{exitNotInjected, err}
		}
		return a.print(*output, result, func(p *page) { writeTrace(p, result, *top) })
	}
	return cmd
}

// readTarget reads --target.
func readTarget(given string) (*v1.Target, error) {
	if given == "" {
		return nil, errors.New("--target is missing: cgroup=PATH, unit=NAME or pid=NUMBER")
	}
	fields, err := parseTarget(given)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	fault := &v1.Fault{Target: &v1.Target{}}
	if _, err := document.Unmarshal("--target", data, fault.GetTarget()); err != nil {
		return nil, err
	}
	faults.Defaults(&v1.Experiment{Spec: &v1.ExperimentSpec{Steps: []*v1.Step{{Faults: []*v1.Fault{fault}}}}})
	return fault.GetTarget(), nil
}

func (a *app) trace(ctx context.Context, target *v1.Target, o trace.Options) (*v1.Trace, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	if o.Cgroups, err = e.Targets.Resolve(ctx, target, 0); err != nil {
		return nil, err
	}
	if _, isTerminal := a.terminal(a.stderr); isTerminal {
		o.Progress = func(calls uint64) { fmt.Fprintf(a.talk, "\r%s calls ", thousands(calls)) }
		defer func() { fmt.Fprintln(a.talk) }()
	}
	return trace.Run(ctx, o)
}

func writeTrace(p *page, t *v1.Trace, top int) {
	took := t.GetDuration().AsDuration().Round(100 * time.Millisecond)
	p.line("%s calls in %s", thousands(t.GetTotal()), units.FormatDuration(took))
	if n := t.GetUncounted(); n > 0 {
		p.line("%s", p.warn(thousands(n)+" were of more kinds than are kept; name some with --calls"))
	}
	var rows [][]cell
	for _, c := range t.GetCalls() {
		name := c.GetCall()
		if c.GetCompat() {
			name += " (32-bit)"
		}
		var errnos []string
		for _, e := range c.GetErrnos() {
			errnos = append(errnos, e.GetErrno()+" "+thousands(e.GetCount()))
		}
		rows = append(rows, []cell{text(name), number(c.GetCount()), number(c.GetFailed()), text(strings.Join(errnos, ", "))})
	}
	writeTop(p, []string{"CALL", "COUNT", "FAILED", "ERRNOS"}, rows, top)
	rows = nil
	for _, f := range t.GetPaths() {
		rows = append(rows, []cell{text(f.GetCall()), number(f.GetCount()), number(f.GetFailed()), text(f.GetPath())})
	}
	writeTop(p, []string{"CALL", "COUNT", "FAILED", "PATH"}, rows, top)
}

// writeTop writes the first rows of a table, if there are any.
func writeTop(p *page, heads []string, rows [][]cell, top int) {
	if len(rows) == 0 {
		return
	}
	left := 0
	if top > 0 && len(rows) > top {
		left, rows = len(rows)-top, rows[:top]
	}
	p.line("")
	p.table(heads, rows)
	if left > 0 {
		p.line("%s", p.faint(fmt.Sprintf("%d more; --top 0 shows all", left)))
	}
}
