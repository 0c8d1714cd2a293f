package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/agent/engine"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// runFlags are those of the commands that inject.
type runFlags struct {
	output  *format
	reports []string
	observe bool
	seed    uint64
	events  int
}

// reportFlags are those that say what is told of a run.
func (a *app) reportFlags(cmd *cobra.Command) *runFlags {
	f := &runFlags{output: outputFlag(cmd)}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.reports, "report", nil, "write a report when the run has ended: json=`FILE`,junit=FILE")
	flags.IntVar(&f.events, "events", 5, "how many sampled events of each fault are printed")
	return f
}

func (a *app) runFlags(cmd *cobra.Command) *runFlags {
	f := a.reportFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.observe, "observe", false, "count what would be hit, hit nothing")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of every random choice; the result tells the one that was used")
	return f
}

// apply puts what the flags say into the experiment.
func (f *runFlags) apply(cmd *cobra.Command, e *v1.Experiment) {
	if f.observe {
		e.GetSpec().Observe = true
	}
	if cmd.Flags().Changed("seed") {
		e.GetSpec().Seed = proto.Uint64(f.seed)
	}
}

func (a *app) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run an experiment, take everything back, and say what happened",
		Long: `Runs an experiment on this machine. On a terminal a live view shows what is
injected, what it has hit, and the probes; elsewhere each change is a line on
stderr. The result goes to stdout. "-" reads from stdin.

Ctrl-C (SIGINT), SIGTERM and SIGHUP end the run early: everything is taken back
before the program ends. When it is killed or frozen, a guard process takes
everything back, and faults that live in the kernel end with the process or by
their lease; what is left after that is undone by revert.

Exit status:

    0  passed
    1  a probe failed
    2  the document or the call is wrong
    3  could not inject; nothing was changed
    4  a fault hit nothing
    5  ended early, or broken off after faults had been on; they were taken back
    6  something could not be taken back (see status and revert)`,
		Example: `  faultline run experiment.yaml
  faultline run experiment.yaml --report json=result.json,junit=result.xml
  faultline run experiment.yaml --observe --output json`,
		Args: exactly(1, "one file"),
	}
	f := a.runFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		experiment, err := a.loadToRun(args[0])
		if err != nil {
			return err
		}
		f.apply(cmd, experiment)
		return a.inject(cmd.Context(), "run", experiment, f)
	}
	return cmd
}

// inject runs an experiment that is valid and has its defaults, from the
// command line to the exit code.
func (a *app) inject(ctx context.Context, command string, experiment *v1.Experiment, f *runFlags) error {
	return a.conduct(ctx, command, f, experiment, func(ctx context.Context, e *engine.Engine, progress func(*v1.RunStatus)) (*v1.Result, error) {
		return e.Run(ctx, experiment, progress)
	})
}

// conduct lets run do an experiment, with all that is around it: reports, a
// live view, signals, the result.
func (a *app) conduct(ctx context.Context, command string, f *runFlags, experiment *v1.Experiment,
	run func(context.Context, *engine.Engine, func(*v1.RunStatus)) (*v1.Result, error),
) error {
	reports, err := parseReports(f.reports)
	if err != nil {
		return usage(err)
	}
	if err := requireRoot(command); err != nil {
		return err
	}
	if err := reports.open(); err != nil {
		return &exitError{exitNotInjected, fmt.Errorf("%w; nothing was changed", err)}
	}
	defer reports.discard()

	e, err := a.engine()
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	watcher, done := a.watch(experiment)
	ctx, stop := a.abortable(ctx, watcher)
	result, runErr := run(ctx, e, watcher.progress)
	stop()
	done()

	code := resultCode(result, runErr)
	if err := reports.write(result); err != nil {
		code = a.untold(code, err)
	}
	if runErr != nil {
		if code != exitRevert {
			runErr = fmt.Errorf("%w; %s", runErr, aftermath(result))
		}
		a.complain(runErr)
	}
	if runErr == nil || *f.output == formatJSON || touched(result) {
		if err := a.print(*f.output, result, func(p *page) { writeResult(p, result, f.events) }); err != nil {
			code = a.untold(code, err)
		}
	}
	return silent(code)
}

// untold is the code of a run whose result could not be written where it was
// wanted. A pass that nobody can read must not look like one.
func (a *app) untold(code int, err error) int {
	if code == exitPassed {
		a.complain(fmt.Errorf("the run has passed, but: %w", err))
		return exitAborted
	}
	a.complain(err)
	return code
}

// touched tells whether some fault was active.
func touched(result *v1.Result) bool {
	for _, f := range result.GetFaults() {
		if f.GetStartTime() != nil {
			return true
		}
	}
	return false
}

// aftermath ends the message about a run that broke.
func aftermath(result *v1.Result) string {
	if touched(result) {
		return "everything was taken back"
	}
	return "nothing was changed"
}

// watcher follows a run for those who look on.
type watcher interface {
	progress(*v1.RunStatus)
	// reverting is called when the run has been asked to end.
	reverting(why string)
}

// watch shows a live view on a terminal and otherwise a line for each change.
// done ends it.
func (a *app) watch(experiment *v1.Experiment) (w watcher, done func()) {
	if _, ok := a.terminal(a.stderr); !ok || a.getenv("TERM") == "dumb" {
		return newLines(a.talk), func() {}
	}
	v := newView(a, experiment)
	a.talk.show(v)
	return v, func() { a.talk.show(nil) }
}

// abortable ends the context at the first signal: the engine takes everything
// back. Further signals change nothing, since leaving now would leave things
// behind; who sends them is told so.
func (a *app) abortable(ctx context.Context, w watcher) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stopped := make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			select {
			case s := <-a.signals:
				if n > 1 {
					fmt.Fprintf(a.talk, "faultline: %s: reverting is under way, please wait\n", signalName(s))
					continue
				}
				fmt.Fprintf(a.talk, "faultline: %s: aborting, everything is taken back\n", signalName(s))
				w.reverting(signalName(s))
				cancel(fmt.Errorf("aborted by %s", signalName(s)))
			case <-stopped:
				return
			}
		}
	}()
	return ctx, func() {
		close(stopped)
		cancel(nil)
	}
}

// lines writes one line per change.
type lines struct {
	talk   *talk
	phase  string
	faults map[int]v1.FaultState
	// failing are the probes whose last news was a failure.
	failures map[string]uint64
	warnings map[string]bool
}

func newLines(t *talk) *lines {
	return &lines{talk: t, faults: map[int]v1.FaultState{}, failures: map[string]uint64{}, warnings: map[string]bool{}}
}

func (l *lines) say(format string, args ...any) {
	fmt.Fprintf(l.talk, "faultline: "+format+"\n", args...)
}

func (l *lines) reverting(string) {}

func (l *lines) progress(s *v1.RunStatus) {
	if l.phase == "" {
		l.say("%s: run %s", s.GetName(), s.GetRunId())
	}
	// What has ended belongs to the phase before.
	l.changes(s, true)
	if s.GetPhase() != l.phase {
		l.phase = s.GetPhase()
		l.say("phase: %s", l.phase)
	}
	l.changes(s, false)
	for _, f := range s.GetFaults() {
		for _, w := range f.GetWarnings() {
			if key := f.GetName() + "\x00" + w; !l.warnings[key] {
				l.warnings[key] = true
				l.say("fault %q: warning: %s", f.GetName(), w)
			}
		}
	}
	for _, p := range s.GetProbes() {
		before, known := l.failures[p.GetName()]
		if p.GetFailures() > before && (!known || before == 0) {
			l.say("probe %q failed: %s", p.GetName(), p.GetError())
		}
		l.failures[p.GetName()] = p.GetFailures()
	}
}

// changes tells of the faults whose state is new: of those that are over, or
// of the others.
func (l *lines) changes(s *v1.RunStatus, over bool) {
	for i, f := range s.GetFaults() {
		before := l.faults[i]
		ended := f.GetState() == v1.FaultState_REVERTED || f.GetState() == v1.FaultState_REVERT_FAILED
		if ended != over || before == f.GetState() || before == 0 && f.GetState() == v1.FaultState_PENDING {
			continue
		}
		l.faults[i] = f.GetState()
		what := fmt.Sprintf("fault %q (%s by %s): %s", f.GetName(), f.GetFault(), f.GetMechanism(), stateWord(f.GetState()))
		if ended {
			what += fmt.Sprintf("; matched %d, injected %d, missed %d", f.GetMatched(), f.GetInjected(), f.GetMissed())
		}
		if f.GetError() != "" {
			what += ": " + f.GetError()
		}
		l.say("%s", what)
	}
}

// stateWord is a state in plain words.
func stateWord(s v1.FaultState) string {
	return strings.ToLower(strings.ReplaceAll(s.String(), "_", " "))
}

// short is a duration for people: whole seconds, tenths below ten.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
