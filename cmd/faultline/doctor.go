package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/kernel"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say which faults and mechanisms work on this machine, and what the others lack",
		Long: `Tries out what the running kernel lets faultline do: each capability is probed by
loading and attaching in a cgroup and a network namespace of the probe's own,
never by version. Shows for every fault its mechanisms, the best first, with yes,
no and why, and what would make it yes. Faults that this version does not have
yet are shown too.

Without root most answers are unknown.`,
		Example: `  faultline doctor
  faultline doctor --output json`,
		Args: noArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := a.interruptible(cmd.Context())
		defer stop()
		root, err := cgroupRoot()
		if err != nil {
			return err
		}
		prober := kernel.NewProber(root, a.log)
		report := a.examine(ctx, prober)
		if cause := interrupted(ctx); cause != nil {
			return cause
		}
		return a.print(*output, report, func(p *page) { writeDoctor(p, report) })
	}
	return cmd
}

// examine probes everything once; the faults' mechanisms are put together from
// the same answers.
func (a *app) examine(ctx context.Context, prober *kernel.Prober) *v1.DoctorReport {
	d := kernel.Describe()
	report := &v1.DoctorReport{Kernel: &v1.Kernel{
		Release:  d.Release,
		Machine:  d.Machine,
		Cgroup2:  d.Cgroup2,
		Btf:      d.BTF,
		Lsm:      d.LSMs,
		Lockdown: d.Lockdown,
		Root:     os.Geteuid() == 0,
	}}
	_, isTerminal := a.terminal(a.stderr)
	all := prober.All()
	for i, c := range all {
		if isTerminal {
			fmt.Fprintf(a.stderr, "\r\x1b[Kprobing %d of %d: %s", i+1, len(all), c)
		}
		answer := prober.Probe(ctx, c)
		report.Capabilities = append(report.Capabilities, &v1.Capability{
			Name:      string(c),
			Title:     kernel.Title(c),
			Available: answer.Available.String(),
			Reason:    answer.Reason,
			Remedy:    answer.Remedy,
		})
	}
	if isTerminal {
		fmt.Fprint(a.stderr, "\r\x1b[K")
	}
	for _, kind := range faults.Catalogue() {
		support := &v1.FaultSupport{Fault: kind.Name, Built: kind.Built()}
		for _, m := range kind.Mechanisms {
			answer := together(report.Capabilities, m.Needs)
			support.Mechanisms = append(support.Mechanisms, &v1.MechanismSupport{
				Name:      m.Name,
				Available: answer.GetAvailable(),
				Reason:    answer.GetReason(),
				Remedy:    answer.GetRemedy(),
			})
		}
		report.Faults = append(report.Faults, support)
	}
	return report
}

// together is the answer for all of needs. A no beats an unknown: whatever the
// unknown turns out to be, the mechanism does not work.
func together(answers []*v1.Capability, needs []kernel.Capability) *v1.Capability {
	out := &v1.Capability{Available: kernel.Yes.String()}
	for _, need := range needs {
		i := slices.IndexFunc(answers, func(c *v1.Capability) bool { return c.GetName() == string(need) })
		if i < 0 {
			return &v1.Capability{Available: kernel.Unknown.String(), Reason: fmt.Sprintf("there is no probe for %s", need)}
		}
		answer := answers[i]
		switch answer.GetAvailable() {
		case kernel.No.String():
			return answer
		case kernel.Unknown.String():
			if out.GetAvailable() == kernel.Yes.String() {
				out = answer
			}
		default:
			// What a probe did not see is said even with a yes.
			if out.GetAvailable() == kernel.Yes.String() && out.GetReason() == "" {
				out = &v1.Capability{Available: answer.GetAvailable(), Reason: answer.GetReason()}
			}
		}
	}
	return out
}

func writeDoctor(p *page, report *v1.DoctorReport) {
	k := report.GetKernel()
	about := []string{"Linux " + k.GetRelease() + " " + k.GetMachine()}
	if k.GetCgroup2() == "" {
		about = append(about, "no cgroup v2")
	} else {
		about = append(about, "cgroup v2 at "+k.GetCgroup2())
	}
	about = append(about, "BTF "+yesNo(k.GetBtf()))
	if len(k.GetLsm()) > 0 {
		about = append(about, "LSM "+strings.Join(k.GetLsm(), ","))
	}
	about = append(about, "lockdown "+k.GetLockdown())
	if !k.GetRoot() {
		about = append(about, "not root")
	}
	p.paragraph("", strings.Join(about, "; "))

	p.line("")
	var rows [][]cell
	seen, unbuilt := repeats{}, false
	for _, f := range report.GetFaults() {
		for i, m := range f.GetMechanisms() {
			name := cell{text: f.GetFault()}
			switch {
			case i > 0:
				name.text = ""
			case !f.GetBuilt():
				name.text += " *"
				unbuilt = true
			}
			words := seen.short(f.GetFault()+" "+m.GetName(), why(m.GetReason(), m.GetRemedy()))
			rows = append(rows, []cell{name, text(m.GetName()), p.available(m.GetAvailable()), text(words)})
		}
	}
	p.table([]string{"FAULT", "MECHANISM", "WORKS", "WHY, AND WHAT WOULD HELP"}, rows)
	if unbuilt {
		p.line("* not built yet in this version")
	}

	p.line("")
	rows, seen = nil, repeats{}
	for _, c := range report.GetCapabilities() {
		shown := c.GetTitle()
		if words := seen.short(c.GetName(), why(c.GetReason(), c.GetRemedy())); words != "" {
			shown += ": " + words
		}
		rows = append(rows, []cell{text(c.GetName()), p.available(c.GetAvailable()), text(shown)})
	}
	p.table([]string{"CAPABILITY", "WORKS", "WHAT IT IS; WHY, AND WHAT WOULD HELP"}, rows)
}

// repeats remembers which reasons have been given, and for what first.
type repeats map[string]string

// short is the reason, or where it is given already.
func (r repeats) short(what, words string) string {
	if words == "" {
		return ""
	}
	if first, ok := r[words]; ok {
		return "as for " + first
	}
	r[words] = what
	return words
}

func (p *page) available(word string) cell {
	switch word {
	case kernel.Yes.String():
		return cell{text: word, paint: p.good}
	case kernel.No.String():
		return cell{text: word, paint: p.bad}
	default:
		return cell{text: word, paint: p.warn}
	}
}

func why(reason, remedy string) string {
	switch {
	case remedy == "":
		return reason
	case reason == "":
		return "needs " + remedy
	default:
		return reason + "; would help: " + remedy
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
