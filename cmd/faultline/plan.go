package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
)

func (a *app) planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Say what a run would do on this machine, and change nothing",
		Long: `Resolves the targets of an experiment, chooses the mechanisms and lists every
change that a run would make, with who undoes it. Nothing is changed. "-" reads
from stdin.`,
		Example: `  faultline plan experiment.yaml
  faultline plan experiment.yaml --output json`,
		Args: exactly(1, "one file"),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		experiment, err := a.loadToRun(args[0])
		if err != nil {
			return err
		}
		if err := requireRoot("plan"); err != nil {
			return err
		}
		ctx, stop := a.interruptible(cmd.Context())
		defer stop()
		e, err := a.engine()
		if err != nil {
			return err
		}
		plan, err := e.Plan(ctx, experiment)
		if err != nil {
			if cause := interrupted(ctx); cause != nil {
				return cause
			}
			return err
		}
		return a.print(*output, plan, func(p *page) { writePlan(p, plan) })
	}
	return cmd
}

func writePlan(p *page, plan *v1.Plan) {
	head := plan.GetName()
	if plan.GetSeed() != 0 {
		head += fmt.Sprintf(", seed %d", plan.GetSeed())
	}
	p.line("%s, %s", p.bold(head), count(len(plan.GetFaults()), "fault")+", "+units.FormatDuration(plan.GetDuration().AsDuration()))
	step := ""
	for i, f := range plan.GetFaults() {
		if i == 0 || f.GetStep() != step {
			step = f.GetStep()
			p.line("")
			p.line("%s", p.bold(step))
		}
		p.line("")
		p.line("  %s: %s for %s by %s", p.bold(f.GetName()), f.GetFault(), units.FormatDuration(f.GetDuration().AsDuration()), f.GetMechanism())
		p.paragraph("    ", f.GetSummary())
		p.line("    target %s", givenTarget(f.GetTarget().GetGiven()))
		for _, c := range f.GetTarget().GetCgroups() {
			p.line("      cgroup %s (id %d)", c.GetPath(), c.GetId())
		}
		if len(f.GetChanges()) > 0 {
			p.line("    changes")
		}
		for _, c := range f.GetChanges() {
			p.paragraph("      ", c.GetObject()+": "+c.GetAction())
			p.paragraph("        ", "undone by: "+c.GetUndo())
		}
		for _, w := range f.GetWarnings() {
			for i, l := range wrap(w, max(p.width-13, 0)) {
				if i == 0 {
					p.line("    %s %s", p.warn("warning:"), l)
					continue
				}
				p.line("             %s", l)
			}
		}
	}
	p.line("")
	p.line("Nothing was changed.")
}

// givenTarget is a target as a person would write it on the command line.
func givenTarget(t *v1.Target) string {
	var text string
	switch x := t.GetTarget().(type) {
	case *v1.Target_Cgroup:
		text = "cgroup " + x.Cgroup
	case *v1.Target_SystemdUnit:
		text = "unit " + x.SystemdUnit
	case *v1.Target_Pid:
		text = fmt.Sprintf("pid %d", x.Pid)
	case *v1.Target_Container:
		text = "container " + x.Container
	case *v1.Target_Pod:
		text = "pod " + strings.Trim(x.Pod.GetNamespace()+"/"+x.Pod.GetName(), "/")
	case *v1.Target_Host:
		text = "host"
	default:
		text = "none"
	}
	switch x := t.GetPick().GetPick().(type) {
	case *v1.Pick_Count:
		text += fmt.Sprintf(", pick %d", x.Count)
	case *v1.Pick_Percent:
		text += fmt.Sprintf(", pick %g %%", x.Percent)
	}
	return text
}

// count is "1 fault", "2 faults".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
