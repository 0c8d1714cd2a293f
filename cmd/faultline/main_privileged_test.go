//go:build linux && privileged

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	testenv "faultline.dev/faultline/test/env"
)

// patience is how long a test waits for something that comes in moments.
const patience = 30 * time.Second

// world is what a test may harm: a cgroup with an application that sends a
// datagram every two milliseconds over a network of its own.
type world struct {
	root     string
	top, app fault.Cgroup
	network  testenv.Network
	stateDir string
}

func newWorld(t *testing.T, stateDir string) *world {
	t.Helper()
	top := testenv.Cgroup(t)
	w := &world{
		root:     testenv.CgroupRoot(t),
		top:      top,
		app:      testenv.Child(t, top, "app"),
		network:  testenv.NewNetwork(t),
		stateDir: stateDir,
	}
	var ready string
	testenv.StartProgram(t, w.app, w.network.A, "chatter", testenv.AddressB+":7000").Read(&ready)
	return w
}

// below is a cgroup's path from the mount point.
func (w *world) below(c fault.Cgroup) string { return strings.TrimPrefix(c.Path, w.root) }

// untouched says what of a fault is there; nil for nothing.
func (w *world) untouched() error {
	var errs []error
	if left, err := os.ReadDir(filepath.Join(w.stateDir, "runs")); err == nil && len(left) > 0 {
		errs = append(errs, fmt.Errorf("there is a run: %s", left[0].Name()))
	}
	dir, err := os.Open(w.app.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		if err != nil {
			errs = append(errs, err)
		} else if n := len(found.Programs); n > 0 {
			errs = append(errs, fmt.Errorf("%d programs at %s of the cgroup", n, attach))
		}
	}
	w.network.A.Do(func() error {
		device, err := netlink.LinkByName(testenv.Veth)
		if err != nil {
			return err
		}
		qdiscs, err := netlink.QdiscList(device)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				errs = append(errs, errors.New("there is a clsact qdisc"))
			}
		}
		// Before 6.6 there is no tcx to ask about.
		found, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXEgress})
		if err == nil && len(found.Programs) > 0 {
			errs = append(errs, fmt.Errorf("%d tcx programs on %s", len(found.Programs), testenv.Veth))
		}
		return nil
	})
	return errors.Join(errs...)
}

// active waits until a fault of a run has hit something.
func (w *world) active() error {
	return testenv.Within(patience, func() error {
		runs, err := journal.List(w.stateDir)
		if err != nil {
			return err
		}
		for _, run := range runs {
			for _, f := range run.Status.GetFaults() {
				if f.GetState() == v1.FaultState_ACTIVE && f.GetInjected() > 0 {
					return nil
				}
			}
		}
		return fmt.Errorf("no fault is active in %d runs", len(runs))
	})
}

// TestPrivilegedScripts gives each script a world of its own.
func TestPrivilegedScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "privileged", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, filepath.Join(t.TempDir(), "state"))
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				RequireExplicitExec: true,
				UpdateScripts:       os.Getenv("FAULTLINE_UPDATE") != "",
				Cmds:                w.commands(),
				Setup: func(e *testscript.Env) error {
					e.Setenv("FAULTLINE_STATE_DIR", w.stateDir)
					e.Setenv("TOP", w.below(w.top))
					e.Setenv("TOP_DIR", w.top.Path)
					e.Setenv("APP", w.below(w.app))
					e.Setenv("APP_DIR", w.app.Path)
					return fill(e.WorkDir, e.Vars)
				},
			})
		})
	}
}

// fill puts the variables into the documents of a script.
func fill(dir string, vars []string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	values := map[string]string{}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		values[name] = value
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		filled := os.Expand(string(text), func(name string) string { return values[name] })
		if err := os.WriteFile(name, []byte(filled), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) commands() map[string]func(*testscript.TestScript, bool, []string) {
	out := maps.Clone(commands)
	out["untouched"] = func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(w.untouched()) }
	out["active"] = func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(w.active()) }
	// remnant leaves what a run leaves whose revert failed.
	out["remnant"] = func(ts *testscript.TestScript, _ bool, _ []string) {
		j, err := journal.Create(w.stateDir, "20200101-000000-00000000", "long-gone")
		ts.Check(err)
		_, err = j.For("some-fault").Record(unknownUndo{})
		ts.Check(errors.Join(err, j.Close()))
	}
	return out
}

// unknownUndo is an undo of another version.
type unknownUndo struct{}

func (unknownUndo) Kind() string               { return "from-the-future" }
func (unknownUndo) Describe() string           { return "a flux capacitor at 88 mph" }
func (unknownUndo) Survives() bool             { return false }
func (unknownUndo) Undo(context.Context) error { return nil }

// TestSignals presses Ctrl-C three times: the first aborts, the others change
// nothing, and everything is taken back.
func TestSignals(t *testing.T) {
	stateDir := filepath.Join(t.TempDir(), "state")
	w := newWorld(t, stateDir)
	signals := make(chan os.Signal, 3)
	stdout, stderr := new(buffer), new(buffer)
	done := make(chan int)
	go func() {
		done <- run(&env{
			args: []string{
				"inject", "networkLoss", "--state-dir", stateDir, "--target", "cgroup=" + w.below(w.app), "--duration", "10m", "--percent", "50",
			},
			stdin:    strings.NewReader(""),
			stdout:   stdout,
			stderr:   stderr,
			terminal: func(io.Writer) (size, bool) { return size{80, 24}, true },
			getenv:   func(string) string { return "" },
			ctx:      t.Context(),
			signals:  signals,
			now:      time.Now,
			version:  "test",
			program:  "faultline",
		})
	}()
	if err := w.active(); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	for range 3 {
		signals <- syscall.SIGINT
	}
	select {
	case code := <-done:
		if code != exitAborted {
			t.Errorf("exit code is %d, wanted %d", code, exitAborted)
		}
	case <-time.After(patience):
		t.Fatalf("the run does not end\n%s", stderr)
	}
	if err := w.untouched(); err != nil {
		t.Error(err)
	}
	for text, in := range map[string]*buffer{
		"SIGINT (Ctrl-C): aborting, everything is taken back": stderr,
		"Ctrl-C aborts and takes everything back":             stderr,
		"aborted by SIGINT (Ctrl-C)":                          stdout,
		"VERIFIED":                                            stdout,
	} {
		if !strings.Contains(in.String(), text) {
			t.Errorf("nothing says %q:\n%s", text, in)
		}
	}
}

// buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(data)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
