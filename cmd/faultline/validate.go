package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check experiment documents",
		Long: `Checks that documents are well formed and make sense, without looking at this
machine: no targets are resolved and nothing is probed (see plan). "-" reads
from stdin. Errors go to stderr, one per line, as FILE:LINE:COLUMN: PATH: MESSAGE.

Exit status: 0 when all files are right, 2 otherwise.`,
		Example: `  faultline validate experiment.yaml
  faultline validate experiments/*.yaml
  faultline inject networkLoss --target cgroup=/shop --percent 5 --duration 1m --dry-run | faultline validate -`,
		Args: atLeastOne("one or more files"),
		RunE: func(_ *cobra.Command, args []string) error {
			good := true
			for _, name := range args {
				if _, err := a.load(name); err != nil {
					a.complain(err)
					good = false
					continue
				}
				fmt.Fprintf(a.stdout, "%s: ok\n", name)
			}
			if !good {
				return silent(exitUsage)
			}
			return nil
		},
	}
}
