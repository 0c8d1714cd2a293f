package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
)

func (a *app) injectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inject FAULT --target TARGET --duration DURATION",
		Short: "Inject one fault without a document",
		Long: `Injects one fault, given by flags, in the same way as run. Each fault has its
own flags: faultline inject FAULT --help.

TARGET is cgroup=PATH, unit=NAME, pid=NUMBER, container=NAME, pod=NAMESPACE/NAME
or host. --dry-run prints the document instead of running it.

The exit status is that of run.`,
		Example: `  faultline inject networkLoss --target unit=shop.service --percent 30 --ports 5432 --duration 30s
  faultline inject networkPartition --target cgroup=/shop/cart --peers 10.0.0.0/8 --direction both --duration 10s
  faultline inject networkLoss --target pid=1234 --percent 5 --duration 1m --dry-run > loss.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(fmt.Errorf("%s takes the name of a fault; faultline faults lists them", cmd.CommandPath()))
			}
			_, err := faults.Lookup(args[0])
			return usage(err)
		},
		// Without this cobra shows the help instead of asking Args.
		RunE: func(*cobra.Command, []string) error { return nil },
		// The flags belong to the faults; here, with an unknown fault, they
		// must not hide what is wrong.
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	for _, kind := range faults.Catalogue() {
		cmd.AddCommand(a.injectKindCommand(kind))
	}
	return cmd
}

func (a *app) injectKindCommand(kind fault.Kind) *cobra.Command {
	cmd := &cobra.Command{
		Use:     kind.Name + " --target TARGET --duration DURATION",
		Aliases: []string{kebab(kind.Name)},
		Short:   capital(kind.Summary),
		Long:    capital(kind.Summary) + ".\n\nfaultline faults " + kind.Name + " says more about it.",
		Example: injectExample(kind),
		Hidden:  !kind.Built(),
		Args:    noArgs,
	}
	f := newFaultFlags(cmd, kind)
	r := a.runFlags(cmd)
	dryRun := cmd.Flags().Bool("dry-run", false, "print the document, inject nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		experiment, err := f.experiment(kind)
		if err != nil {
			return err
		}
		r.apply(cmd, experiment)
		if *dryRun {
			out, err := document.Encode(experiment, document.YAML)
			if err != nil {
				return usage(err)
			}
			if _, err := a.stdout.Write(out); err != nil {
				return fmt.Errorf("writing the document: %w", err)
			}
			return nil
		}
		if !kind.Built() {
			return usage(fmt.Errorf("%s is not built yet; faultline faults says which faults this version has", kind.Name))
		}
		faults.Defaults(experiment)
		return a.inject(cmd.Context(), "inject", experiment, r)
	}
	return cmd
}

// experiment makes a document of the flags and checks it.
func (f *faultFlags) experiment(kind fault.Kind) (*v1.Experiment, error) {
	spec, err := f.fault()
	if err != nil {
		return nil, err
	}
	e := &v1.Experiment{
		ApiVersion: "faultline.dev/v1alpha1",
		Kind:       "Experiment",
		Metadata:   &v1.Metadata{Name: "inject-" + kebab(kind.Name)},
		Spec:       &v1.ExperimentSpec{Steps: []*v1.Step{{Name: kind.Name, Faults: []*v1.Fault{spec}}}},
	}
	var errs []error
	for _, p := range faults.Validate(e) {
		path := strings.TrimPrefix(strings.TrimPrefix(p.Path, "spec.steps[0].faults[0]"), ".")
		errs = append(errs, f.problem(path, p.Message))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage(err)
	}
	return e, nil
}

// injectExample is the kind's example as a command line, as far as that can be
// made from a document.
func injectExample(kind fault.Kind) string {
	example := "  faultline inject " + kind.Name + " --target unit=shop.service --duration 30s"
	switch kind.Name {
	case "networkLoss":
		example += " --percent 30 --ports 5432"
	case "networkPartition":
		example += " --direction both --peers 10.0.0.0/8"
	default:
		example += " --help"
	}
	return example
}

// kebab writes networkLoss as network-loss.
func kebab(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
