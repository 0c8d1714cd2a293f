package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
)

const (
	// grace is how much later than the kernel a guard ends a fault: a process
	// that is alive does it itself when the fault's time is over.
	grace = 250 * time.Millisecond
	// again is the time between two tries of an undo that does not work.
	again = time.Second
	// longestWait bounds the wait for a lease: a timer stands still while the
	// machine sleeps, the clock of the leases does not.
	longestWait = time.Second
	// dyingPoll is how often a guard looks whether a process that is ending
	// has let go of its run, and lingerPoll whether a run that can be taken
	// over was.
	dyingPoll  = 5 * time.Millisecond
	lingerPoll = 100 * time.Millisecond
)

// Config is what a guard has to know.
type Config struct {
	StateDir string
	RunID    string
	// PID is the process of the run.
	PID int
	// Linger leaves a run whose process has died alone until its leases have
	// run out, so that another process can take it over.
	Linger bool
	Decode journal.Decode
	Log    *slog.Logger
}

// Serve watches over a run until the farewell, or until it has taken the run
// back. The caller sees to it that signals don't end the process. in and out
// are the pipes to the run's process.
func Serve(ctx context.Context, c Config, in io.Reader, out io.Writer) error {
	w := &watch{Config: c, leases: map[string]uint64{}}
	messages := make(chan string)
	go func() {
		defer close(messages)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			messages <- lines.Text()
		}
	}()
	if _, err := fmt.Fprintln(out, readyWord); err != nil {
		return w.orphaned(ctx)
	}
	for {
		timer := time.NewTimer(w.wait())
		select {
		case message, alive := <-messages:
			timer.Stop()
			if message == doneWord {
				return nil
			}
			if !alive {
				return w.orphaned(ctx)
			}
			if err := w.note(message); err != nil {
				return err
			}
		case <-timer.C:
			w.expire(ctx)
		}
	}
}

// watch is a guard at work.
type watch struct {
	Config
	// leases are the deadlines of the faults that go on.
	leases map[string]uint64
}

func (w *watch) note(message string) error {
	word, rest, _ := strings.Cut(message, " ")
	number, name, _ := strings.Cut(rest, " ")
	deadline, err := strconv.ParseUint(number, 10, 64)
	if word != leaseWord || err != nil {
		return fmt.Errorf("guard: %q is no message", message)
	}
	if deadline == 0 {
		delete(w.leases, name)
	} else {
		w.leases[name] = deadline
	}
	return nil
}

// wait is the time until the next lease runs out.
func (w *watch) wait() time.Duration {
	wait, now := longestWait, fault.BootTime()
	for _, deadline := range w.leases {
		wait = min(wait, grace+time.Duration(deadline-min(now, deadline)))
	}
	return wait
}

// expire undoes what faults have open that nobody has renewed.
func (w *watch) expire(ctx context.Context) {
	now := fault.BootTime()
	for name, deadline := range w.leases {
		if now < deadline+uint64(grace) {
			continue
		}
		run, found, err := journal.Find(w.StateDir, w.RunID)
		if err == nil && found {
			w.Log.Warn("nobody renews the lease of a fault; taking it back", "run", w.RunID, "fault", name, "pid", w.PID)
			err = journal.UndoFault(ctx, run, name, w.Decode)
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it has ended, and only the farewell is missing
		}
		if err != nil {
			w.Log.Error("taking a fault back", "run", w.RunID, "fault", name, "error", err)
			w.leases[name] = now + uint64(again)
			continue
		}
		delete(w.leases, name)
	}
}

// orphaned takes back a run whose process has died.
func (w *watch) orphaned(ctx context.Context) error {
	failpoint.Hit(failpoint.Orphaned)
	for {
		poll := dyingPoll
		run, found, err := journal.Find(w.StateDir, w.RunID)
		switch {
		case err != nil || !found:
			return err // it was closed, and only the farewell is missing
		case run.Alive && run.PID != w.PID:
			return nil // somebody else has it
		case run.Alive, w.Linger && w.running():
			// It is dying, or may still be taken over.
			if !run.Alive {
				poll = lingerPoll
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(poll):
			}
			continue
		}
		report := &v1.RevertReport{}
		err = journal.RevertRun(ctx, run, w.Decode, report)
		if errors.Is(err, journal.ErrInUse) {
			continue
		}
		if errors.Is(err, journal.ErrNotRunning) || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		for _, r := range report.GetUndone() {
			w.Log.Warn("the process of a run has died; taken back", "run", w.RunID, "fault", r.GetFault(), "what", r.GetDescription())
		}
		for _, r := range report.GetFailed() {
			err = errors.Join(err, fmt.Errorf("the process of run %s has died, and this was not taken back: %s: %s; see `faultline status`, try `faultline revert`",
				w.RunID, r.GetDescription(), r.GetError()))
		}
		return err
	}
}

// running tells whether a lease still runs.
func (w *watch) running() bool {
	now := fault.BootTime()
	for _, deadline := range w.leases {
		if now < deadline {
			return true
		}
	}
	return false
}
