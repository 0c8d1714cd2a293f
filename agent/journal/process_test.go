package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes the test binary another process: it says what to do.
const helperEnv = "FAULTLINE_JOURNAL_HELPER"

func TestMain(m *testing.M) {
	if what := os.Getenv(helperEnv); what != "" {
		if err := helper(what, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper holds a run until it is told to end it.
func helper(what, state, dir string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	j, err := Create(state, "other", "of another process")
	if err != nil {
		return err
	}
	u := fileUndo{Path: dir + "/other", Log: dir + "/log"}
	done, err := j.For("loss").Record(u)
	if err != nil {
		return err
	}
	if err := os.WriteFile(u.Path, nil, 0o600); err != nil {
		return err
	}
	fmt.Println("ready")
	switch what {
	case "obey":
		<-term
		return errors.Join(done.Undo(context.Background()), j.Close())
	case "let-go": // an agent that ends the run and lives on
		<-term
		if err := errors.Join(done.Undo(context.Background()), j.Close()); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// other starts another process with a run and returns when it has it.
func (b *bench) other(what string) *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command("/proc/self/exe", b.state, b.dir)
	cmd.Env = append(os.Environ(), helperEnv+"="+what)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		b.t.Fatalf("the other process says %q, %v", line, err)
	}
	return cmd
}

func TestRunOfAnotherProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cmd := b.other("hold")
	for range 2 {
		runs := b.list()
		if len(runs) != 1 || !runs[0].Alive || runs[0].PID != cmd.Process.Pid || !runs[0].Open[0].OwnerAlive {
			t.Fatalf("runs %+v", runs)
		}
	}
	if _, err := acquire(filepath.Join(b.list()[0].Dir, lockName)); !errors.Is(err, ErrInUse) {
		t.Errorf("took the lock of a live run: %v", err)
	}
	if report := b.revert(); len(report.Undone)+len(report.Failed) != 0 {
		t.Errorf("reverted a live run: %v", report)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	run := b.list()[0]
	if run.Alive || len(run.Open) != 1 || run.Open[0].OwnerAlive {
		t.Fatalf("run %+v", run)
	}
	if report := b.revert(); len(report.Undone) != 1 {
		t.Errorf("report %v", report)
	}
	b.wantUndone("other")
	b.wantEmpty()
}

func TestStop(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"obey", "let-go"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.other(what)
			run := b.list()[0]
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := Stop(ctx, run); err != nil {
				t.Fatal(err)
			}
			b.wantUndone("other")
			b.wantEmpty()
			if err := Stop(ctx, run); !errors.Is(err, ErrNotRunning) {
				t.Errorf("stopping a run that has ended: %v", err)
			}
		})
	}
}

func TestStopGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cmd := b.other("hold")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := Stop(ctx, b.list()[0])
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("error %v", err)
	}
}

func TestStopOfOwnRunIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.create("r1")
	if err := Stop(t.Context(), b.list()[0]); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v", err)
	}
}
