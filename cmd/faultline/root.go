package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"faultline.dev/faultline/api/nearest"
)

const defaultStateDir = "/var/lib/faultline"

// stopFile forbids every run on this machine while it exists.
const stopFile = "/etc/faultline/STOP"

// policyFile says what the owner of this machine allows.
const policyFile = "/etc/faultline/policy.yaml"

// helpWidth is the width of help that does not go to a terminal.
const helpWidth = 100

// app is one call of the program.
type app struct {
	*env
	// The flags that every command has.
	stateDir string
	logLevel string
	noColor  bool
	log      *slog.Logger
	// talk is stderr; while a live view is on it, what is written goes above
	// the view.
	talk *talk
}

// run is the program: it returns the exit status.
func run(e *env) int {
	a := &app{env: e, talk: &talk{out: e.stderr}}
	root := a.rootCommand()
	root.SetArgs(e.args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(a.talk)
	err := root.ExecuteContext(e.ctx)
	var done *exitError
	if err != nil && (!errors.As(err, &done) || done.err != nil) {
		a.complain(err)
	}
	return exitCode(err)
}

// complain says what went wrong. Errors that carry a place in a file stand
// alone, as editors and continuous integration expect them.
func (a *app) complain(err error) {
	text := err.Error()
	if !isPlaced(err) {
		text = "faultline: " + strings.ReplaceAll(text, "\n", "\nfaultline: ")
	}
	fmt.Fprintln(a.talk, a.style(a.stderr).bad(text))
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "faultline",
		Short: "Inject faults into running services from inside the kernel, and take them back",
		Long: `Faultline injects faults into running Linux services from inside the kernel,
one cgroup at a time, and always takes them back.

Exit status of run, inject and plan:

    0  passed
    1  a probe failed
    2  the document or the call is wrong
    3  could not inject; nothing was changed
    4  a fault hit nothing
    5  aborted
    6  something could not be taken back`,
		Example: `  faultline doctor
  faultline plan experiment.yaml
  faultline run experiment.yaml
  faultline inject networkLoss --target unit=shop.service --percent 30 --duration 30s`,
		Version:       a.version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          a.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.prepare() },
	}
	root.SetVersionTemplate("faultline {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	width := helpWidth
	if s, ok := a.terminal(a.stdout); ok && s.width > 0 {
		width = s.width
	}
	template := root.UsageTemplate()
	for _, flags := range []string{".LocalFlags", ".InheritedFlags"} {
		template = strings.ReplaceAll(template, flags+".FlagUsages", fmt.Sprintf("%s.FlagUsagesWrapped %d", flags, width))
	}
	root.SetUsageTemplate(template)
	root.CompletionOptions.HiddenDefaultCmd = false
	// The order of a document's fields, of a run's life, says more than the
	// alphabet.
	cobra.EnableCommandSorting = false

	flags := root.PersistentFlags()
	flags.SortFlags = false
	state := a.getenv("FAULTLINE_STATE_DIR")
	if state == "" {
		state = defaultStateDir
	}
	flags.StringVar(&a.stateDir, "state-dir", state, "`directory` of the journals (environment: FAULTLINE_STATE_DIR)")
	flags.StringVar(&a.logLevel, "log-level", "warn", "what is logged to stderr: debug, info, warn, error")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (environment: NO_COLOR)")

	root.AddGroup(
		&cobra.Group{ID: "know", Title: "What is possible:"},
		&cobra.Group{ID: "run", Title: "Inject:"},
		&cobra.Group{ID: "end", Title: "See and end:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("know", a.doctorCommand(), a.faultsCommand(), a.traceCommand())
	add("run", a.validateCommand(), a.planCommand(), a.runCommand(), a.injectCommand(), a.resumeCommand())
	add("end", a.statusCommand(), a.stopCommand(), a.revertCommand())
	root.AddCommand(a.versionCommand(), a.docsCommand(), a.manCommand(), a.guardCommand())
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}

// prepare makes what the flags decide.
func (a *app) prepare() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return usage(fmt.Errorf("--log-level %q is not one of debug, info, warn, error", a.logLevel))
	}
	a.log = slog.New(slog.NewTextHandler(a.talk, &slog.HandlerOptions{Level: level}))
	return nil
}

// noSuchCommand is the root's rule for arguments: there are none, so the first
// one is a command that does not exist.
func (a *app) noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usage(fmt.Errorf("unknown command %q%s", args[0], didYouMean(args[0], names, cmd.CommandPath()+" --help lists the commands")))
}

func didYouMean(word string, candidates []string, otherwise string) string {
	if near, ok := nearest.Word(word, candidates); ok {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return "; " + otherwise
}

// flagError adds the nearest flag to an error about an unknown one.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usage(err)
	}
	name := unknown.GetSpecifiedName()
	if unknown.GetSpecifiedShortnames() != "" {
		return usage(fmt.Errorf("unknown flag -%s; %s --help lists the flags", name, cmd.CommandPath()))
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	return usage(fmt.Errorf("unknown flag --%s%s", name, didYouMean("--"+name, names, cmd.CommandPath()+" --help lists the flags")))
}

// exactly and the two below are cobra's rules for arguments in the words of
// this program.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage(fmt.Errorf("%s takes %s, %d given", cmd.CommandPath(), what, len(args)))
		}
		return nil
	}
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(fmt.Errorf("%s takes %s, none given", cmd.CommandPath(), what))
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Errorf("%s takes no arguments, given %q", cmd.CommandPath(), strings.Join(args, " ")))
	}
	return nil
}

// interruptible ends the context at the first signal. It is for commands that
// leave nothing behind wherever they stop.
func (a *app) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case s := <-a.signals:
			cancel(&exitError{exitAborted, fmt.Errorf("interrupted by %s", signalName(s))})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// interrupted is the error of a context that a signal ended, or nil.
func interrupted(ctx context.Context) error {
	var e *exitError
	if cause := context.Cause(ctx); errors.As(cause, &e) {
		return e
	}
	return nil
}

func signalName(s os.Signal) string {
	switch s.String() {
	case "interrupt":
		return "SIGINT (Ctrl-C)"
	case "terminated":
		return "SIGTERM"
	case "hangup":
		return "SIGHUP (the terminal is gone)"
	case "quit":
		return "SIGQUIT"
	}
	return s.String()
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  faultline version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(a.stdout, "faultline %s\n", a.version)
			return nil
		},
	}
}
