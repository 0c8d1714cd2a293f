package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"faultline.dev/faultline/agent/guard"
	"faultline.dev/faultline/faults"
)

// guardCommand is the process that watches over a run. It is started by the
// run and by nobody else.
func (a *app) guardCommand() *cobra.Command {
	var pid int
	var linger bool
	cmd := &cobra.Command{
		Use:    "guard RUN",
		Short:  "Take a run back when its process can't any more",
		Hidden: true,
		Args:   exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			// Who ends the run ends its guard with it; who kills every
			// process of a service must not reach it before its work is done.
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
			return guard.Serve(cmd.Context(), guard.Config{
				StateDir: a.stateDir,
				RunID:    args[0],
				PID:      pid,
				Linger:   linger,
				Decode:   faults.DecodeUndo,
				Log:      a.log,
			}, a.stdin, a.stdout)
		},
	}
	cmd.Flags().IntVar(&pid, "pid", 0, "process of the run")
	cmd.Flags().BoolVar(&linger, "linger", false, "leave the run to be resumed until its leases have run out")
	return cmd
}

// startGuard makes the command of a guard: this program again.
func (a *app) startGuard(runID string, linger bool) *exec.Cmd {
	stateDir, err := filepath.Abs(a.stateDir)
	if err != nil {
		stateDir = a.stateDir // the working directory is gone; so is a path from it
	}
	// The file may be replaced by an upgrade while a run goes on; this name
	// is that of the program as it was started (proc_pid_exe(5)).
	cmd := exec.Command("/proc/self/exe", "guard", runID,
		"--state-dir", stateDir,
		"--log-level", a.logLevel,
		"--pid", strconv.Itoa(os.Getpid()),
		"--linger="+strconv.FormatBool(linger))
	cmd.Args[0] = a.program
	// It must not keep a file system from being unmounted.
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	return cmd
}
