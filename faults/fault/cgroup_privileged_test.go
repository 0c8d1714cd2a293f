//go:build linux && privileged

package fault_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"threads": env.Threads})
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	a, b := env.Child(t, c, "a"), env.Child(t, c, "b")
	deep := env.Child(t, b, "deep")
	want := []int{env.StartProgram(t, a, nil, "cat").PID(), env.StartProgram(t, deep, nil, "cat").PID(), env.StartProgram(t, deep, nil, "cat").PID()}
	slices.Sort(want)
	got, err := c.Processes()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("processes %v, %v; wanted %v", got, err, want)
	}
	if _, err := (fault.Cgroup{Path: c.Path, ID: c.ID + 1}).Processes(); !errors.Is(err, fault.ErrGone) {
		t.Errorf("took another cgroup for the one that was meant: %v", err)
	}
	if _, err := (fault.Cgroup{Path: c.Path + "/gone", ID: 5}).Processes(); !errors.Is(err, fault.ErrGone) {
		t.Errorf("error %v", err)
	}
}

func TestProcessesOfAThreadedCgroup(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	p := env.Start(t, c, nil, "threads")
	var tids []int
	p.Read(&tids)
	threaded := env.Child(t, c, "threaded")
	if err := os.WriteFile(filepath.Join(threaded.Path, "cgroup.type"), []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tids, func(tid int) bool { return tid != p.PID() })
	if err := os.WriteFile(filepath.Join(threaded.Path, "cgroup.threads"), []byte(strconv.Itoa(tids[i])), 0); err != nil {
		t.Fatal(err)
	}
	for _, of := range []fault.Cgroup{c, threaded} {
		got, err := of.Processes()
		if err != nil || !slices.Equal(got, []int{p.PID()}) {
			t.Errorf("processes of %s: %v, %v; wanted %d", of.Path, got, err, p.PID())
		}
	}
	// Back to one cgroup, so that the child can be removed.
	p.Kill()
}

func TestProcessesWhileCgroupsComeAndGo(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	p := env.StartProgram(t, c, nil, "cat")
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			deep := filepath.Join(c.Path, "x", "y")
			if err := errors.Join(os.MkdirAll(deep, 0o755), os.Remove(deep), os.Remove(filepath.Dir(deep))); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 300 {
		got, err := c.Processes()
		if err != nil || !slices.Equal(got, []int{p.PID()}) {
			t.Errorf("processes %v, %v", got, err)
			break
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
