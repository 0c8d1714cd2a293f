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
	"slices"
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
	"faultline.dev/faultline/test/vm/kernels"
)

// patience is how long a test waits for something that comes in moments.
const patience = 2 * time.Minute

// world is what a test may harm: a cgroup with an application that sends a
// datagram every two milliseconds over a network of its own.
type world struct {
	t        *testing.T
	root     string
	top, app fault.Cgroup
	network  testenv.Network
	stateDir string
	// more counts the applications beside the first.
	more int
}

func newWorld(t *testing.T, stateDir string) *world {
	t.Helper()
	top := testenv.Cgroup(t)
	w := &world{
		t:        t,
		root:     testenv.CgroupRoot(t),
		top:      top,
		app:      testenv.Child(t, top, "app"),
		network:  testenv.NewNetwork(t),
		stateDir: stateDir,
	}
	w.chatter(w.app, 5*time.Millisecond)
	return w
}

// chatter starts the application in a cgroup, which sends a datagram each time.
func (w *world) chatter(c fault.Cgroup, every time.Duration) {
	w.t.Helper()
	var ready string
	testenv.StartProgram(w.t, c, w.network.A, "chatter", testenv.AddressB+":7000", every.String()).Read(&ready)
}

// below is a cgroup's path from the mount point.
func (w *world) below(c fault.Cgroup) string { return strings.TrimPrefix(c.Path, w.root) }

// untouched says what of a fault is there; nil for nothing.
func (w *world) untouched() error {
	var errs []error
	if left, err := os.ReadDir(filepath.Join(w.stateDir, "runs")); err == nil && len(left) > 0 {
		errs = append(errs, fmt.Errorf("there is a run: %s", left[0].Name()))
	}
	if frozen := testenv.ReadStat(w.t, w.app, "cgroup.events", "frozen"); frozen != 0 {
		errs = append(errs, errors.New("the cgroup is frozen"))
	}
	errs = append(errs, testenv.Within(patience, w.unguarded))
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
			if slices.Contains([]string{"clsact", "fq", "prio", "netem", "tbf"}, q.Type()) {
				errs = append(errs, fmt.Errorf("there is a %s qdisc", q.Type()))
			}
		}
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "ifb" {
				errs = append(errs, fmt.Errorf("there is the ifb %s", l.Attrs().Name))
			}
		}
		errs = append(errs, err)
		// Before 6.6 there is no tcx to ask about.
		found, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXEgress})
		if err == nil && len(found.Programs) > 0 {
			errs = append(errs, fmt.Errorf("%d tcx programs on %s", len(found.Programs), testenv.Veth))
		}
		return nil
	})
	return errors.Join(errs...)
}

// active waits until every fault of a run has hit something: of the run of a
// name, or of some run.
func (w *world) active(names ...string) error {
	return testenv.Within(patience, func() error {
		runs, err := journal.List(w.stateDir)
		if err != nil {
			return err
		}
		for _, run := range runs {
			if len(names) > 0 && run.Name != names[0] {
				continue
			}
			idle := slices.ContainsFunc(run.Status.GetFaults(), func(f *v1.FaultResult) bool {
				return f.GetState() != v1.FaultState_ACTIVE || f.GetInjected() == 0
			})
			if !idle && len(run.Status.GetFaults()) > 0 {
				return nil
			}
		}
		return fmt.Errorf("no faults of %q are active in %d runs", names, len(runs))
	})
}

// TestPrivilegedScripts gives each script a world of its own.
func TestPrivilegedScripts(t *testing.T) {
	for _, file := range scripts(t, "privileged") {
		t.Run(scriptName(file), func(t *testing.T) {
			t.Parallel()
			newWorld(t, filepath.Join(t.TempDir(), "state")).play(file)
		})
	}
}

// TestNodeScripts are about documents, disks, journals and other processes, and
// not about the kernel.
func TestNodeScripts(t *testing.T) {
	chosen(t, "node-scripts")
	for _, file := range scripts(t, "node") {
		t.Run(scriptName(file), func(t *testing.T) {
			t.Parallel()
			newWorld(t, filepath.Join(t.TempDir(), "state")).play(file)
		})
	}
}

// TestLonelyScripts are those that take back whatever has the mark of faultline
// on this machine, and those whose faults are left without a process: each
// would be in the way of others.
func TestLonelyScripts(t *testing.T) {
	for _, file := range scripts(t, "lonely") {
		t.Run(scriptName(file), func(t *testing.T) {
			newWorld(t, filepath.Join(t.TempDir(), "state")).play(file)
		})
	}
}

// TestClockScripts set the clock, which is the machine's: only in a guest, and
// with nothing beside them.
func TestClockScripts(t *testing.T) {
	if _, guest, err := kernels.Current(); err != nil {
		t.Fatal(err)
	} else if !guest {
		t.Skip("the clock of this machine is not the test's")
	}
	chosen(t, "clock-scripts")
	for _, file := range scripts(t, "clock") {
		t.Run(scriptName(file), func(t *testing.T) {
			newWorld(t, filepath.Join(t.TempDir(), "state")).play(file)
		})
	}
}

// chosen skips tests that are not about the kernel in the guests that are not
// declared for them: they take minutes in emulation.
func chosen(t *testing.T, capability string) {
	t.Helper()
	if k, guest, err := kernels.Current(); err != nil {
		t.Fatal(err)
	} else if guest && !k.Supports(capability) {
		kernels.Missing(t, capability, errors.New("they are not about the kernel"))
	}
}

func scripts(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	return files
}

func scriptName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txtar") }

// play runs a script in the world.
func (w *world) play(file string) {
	testscript.Run(w.t, testscript.Params{
		Files:               []string{file},
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("FAULTLINE_UPDATE") != "",
		Cmds:                w.commands(),
		Setup: func(e *testscript.Env) error {
			e.Setenv("FAULTLINE_STATE_DIR", w.stateDir)
			e.Setenv(kernels.Variable, os.Getenv(kernels.Variable))
			e.Setenv("TOP", w.below(w.top))
			e.Setenv("TOP_DIR", w.top.Path)
			e.Setenv("APP", w.below(w.app))
			e.Setenv("APP_DIR", w.app.Path)
			return fill(e.WorkDir, e.Vars)
		},
	})
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
	maps.Copy(out, w.hostile())
	out["untouched"] = func(ts *testscript.TestScript, neg bool, _ []string) {
		if err := w.untouched(); (err == nil) == neg {
			ts.Fatalf("left: %v", err)
		}
	}
	out["active"] = func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(w.active(args...)) }
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
