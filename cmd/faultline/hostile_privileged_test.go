//go:build linux && privileged

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/pin"
	testenv "faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// hostile are the commands with which scripts make surroundings that a run does
// not expect.
func (w *world) hostile() map[string]func(*testscript.TestScript, bool, []string) {
	plain := func(usage string, arguments int, fn func(ts *testscript.TestScript, args []string) error) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < arguments {
				ts.Fatalf("usage: %s", usage)
			}
			ts.Check(fn(ts, args))
		}
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"disk": plain("disk TYPE SIZE", 2, func(ts *testscript.TestScript, args []string) error {
			image, err := w.mountState(args[0], args[1])
			ts.Setenv("DISK", image)
			return err
		}),
		"nodisk": plain("nodisk", 0, func(*testscript.TestScript, []string) error { return w.unmountState() }),
		"fill":   plain("fill", 0, func(*testscript.TestScript, []string) error { return w.fill() }),
		"empty": plain("empty", 0, func(*testscript.TestScript, []string) error {
			return os.Remove(w.filler())
		}),
		"break": plain("break", 0, func(*testscript.TestScript, []string) error { return w.breakDisk() }),
		"targets": plain("targets NUMBER", 1, func(_ *testscript.TestScript, args []string) error {
			return w.targets(args[0])
		}),
		"signal": plain("signal SIGNAL run|guard [NAME]", 2, func(_ *testscript.TestScript, args []string) error {
			return w.signal(args[0], args[1], args[2:])
		}),
		"damage": plain("damage flip|cut|empty", 1, func(_ *testscript.TestScript, args []string) error {
			return w.damage(args[0])
		}),
		"clock":    plain("clock DURATION", 1, func(_ *testscript.TestScript, args []string) error { return w.moveClock(args[0]) }),
		"counting": plain("counting", 0, func(*testscript.TestScript, []string) error { return w.counting() }),
		"unpinned": plain("unpinned", 0, func(*testscript.TestScript, []string) error { return unpinned() }),
		"counted": plain("counted STATUS RESULT", 2, func(ts *testscript.TestScript, args []string) error {
			return counted(ts.ReadFile(args[0]), ts.ReadFile(args[1]))
		}),
		"until": plain("until REGEXP PROGRAM ARGUMENTS...", 2, func(ts *testscript.TestScript, args []string) error {
			return until(ts, args[0], args[1], args[2:])
		}),
	}
}

// mountState mounts a file system of a size at the state directory: tmpfs, or
// ext4, in an image, that turns read-only at the first error.
func (w *world) mountState(kind, size string) (image string, err error) {
	if err := os.MkdirAll(w.stateDir, 0o700); err != nil {
		return "", err
	}
	w.t.Cleanup(func() { _ = unix.Unmount(w.stateDir, unix.MNT_DETACH) })
	if kind == "tmpfs" {
		return "", unix.Mount("tmpfs", w.stateDir, "tmpfs", 0, "mode=0700,size="+size)
	}
	image = filepath.Join(w.t.TempDir(), "disk")
	return image, errors.Join(
		tool("truncate", "--size", size, image),
		tool("mkfs."+kind, "-q", image),
		tool("mount", "-t", kind, "-o", "loop,errors=remount-ro", image, w.stateDir),
	)
}

func (w *world) unmountState() error { return unix.Unmount(w.stateDir, 0) }

// tool runs a program that must succeed.
func tool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (w *world) filler() string { return filepath.Join(w.stateDir, "filler") }

// fill leaves no byte on the disk of the state directory.
func (w *world) fill() error {
	f, err := os.Create(w.filler())
	if err != nil {
		return err
	}
	for size := 64 << 10; size > 0 && err == nil; size /= 2 {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if errors.Is(err, unix.ENOSPC) {
			err = nil
		}
	}
	return errors.Join(err, f.Close())
}

// breakDisk reports an error to the ext4 of the state directory, as a disk
// does that can't be read any more: it allows no writing from then on.
func (w *world) breakDisk() error {
	var st unix.Stat_t
	if err := unix.Stat(w.stateDir, &st); err != nil {
		return err
	}
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("1"), 0)
}

// targets starts so many applications more, in cgroups beside the first one: APP
// with 1, 2, 3 behind its name.
func (w *world) targets(text string) error {
	n, err := strconv.Atoi(text)
	for range n {
		w.more++
		// Many of them are too much for an emulated machine.
		w.chatter(testenv.Child(w.t, w.top, filepath.Base(w.app.Path)+strconv.Itoa(w.more)), 20*time.Millisecond)
	}
	return err
}

// signal sends a signal to the process of a run or to its guard; to those of
// the only run without a name.
func (w *world) signal(name, whom string, names []string) error {
	runs, err := journal.List(w.stateDir)
	if err != nil {
		return err
	}
	runs = slices.DeleteFunc(runs, func(r journal.Run) bool { return len(names) > 0 && r.Name != names[0] })
	if len(runs) != 1 {
		return fmt.Errorf("%d runs are named %q", len(runs), names)
	}
	pid := runs[0].PID
	if whom == "guard" {
		guards, err := w.guards()
		if err != nil {
			return err
		}
		if pid = guards[runs[0].ID]; pid == 0 {
			return fmt.Errorf("run %s has no guard", runs[0].ID)
		}
	}
	number := unix.SignalNum("SIG" + name)
	if number == 0 || pid == 0 {
		return fmt.Errorf("signal %q to process %d", name, pid)
	}
	if err := unix.Kill(pid, number); err != nil {
		return err
	}
	if number != unix.SIGKILL {
		return nil
	}
	// What it holds open is closed by the last of its threads.
	return testenv.Within(patience, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, thread := range threads {
			if state := processState(thread); state != "" && state != "Z" && state != "X" {
				err = errors.Join(err, fmt.Errorf("%s is in state %s", thread, state))
			}
		}
		return err
	})
}

// processState is the letter of proc_pid_stat(5) in a directory of /proc, "" for
// no process.
func processState(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return ""
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[0]
}

// guards are the processes that guard runs of this world, by run id.
func (w *world) guards() (map[string]int, error) {
	entries, err := os.ReadDir("/proc")
	found := map[string]int{}
	for _, e := range entries {
		pid, notProcess := strconv.Atoi(e.Name())
		if notProcess != nil {
			continue
		}
		// One that is ending has no arguments.
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(string(line), "\x00")
		if len(args) > 2 && args[1] == "guard" && slices.Contains(args, w.stateDir) {
			found[args[2]] = pid
		}
	}
	return found, err
}

// unguarded is the error of a guard that is still there.
func (w *world) unguarded() error {
	guards, err := w.guards()
	for run, pid := range guards {
		err = errors.Join(err, fmt.Errorf("process %d guards run %s", pid, run))
	}
	return err
}

// damage spoils the journal of the only run.
func (w *world) damage(how string) error {
	runs, err := journal.List(w.stateDir)
	if err != nil || len(runs) != 1 {
		return fmt.Errorf("%d runs, %w", len(runs), err)
	}
	path := filepath.Join(runs[0].Dir, "journal")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if len(lines) < 3 {
		return fmt.Errorf("the journal has %d lines", len(lines))
	}
	switch how {
	case "flip": // a bit of the first undo
		lines[1][len(lines[1])/2] ^= 0x10
	case "cut": // the beginning of the first undo is gone
		lines[1] = lines[1][len(lines[1])/2:]
	case "empty":
		lines = nil
	default:
		return fmt.Errorf("damage %q", how)
	}
	return os.WriteFile(path, bytes.Join(lines, nil), 0o600)
}

// moveClock sets the clock of the machine forward or back, until the end of the
// test.
func (w *world) moveClock(text string) error {
	by, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if _, guest, err := kernels.Current(); !guest || err != nil {
		return fmt.Errorf("the clock of this machine is not the test's: %w", err)
	}
	if err := setClock(by); err != nil {
		return err
	}
	w.t.Cleanup(func() {
		if err := setClock(-by); err != nil {
			w.t.Error(err)
		}
	})
	return nil
}

func setClock(by time.Duration) error {
	then := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	return unix.Settimeofday(&then)
}

// counting waits until a run counts more than it has: what it says of its state
// may be the word of the process before.
func (w *world) counting() error {
	matched := func() (sum uint64) {
		runs, _ := journal.List(w.stateDir)
		for _, run := range runs {
			for _, f := range run.Status.GetFaults() {
				sum += f.GetMatched()
			}
		}
		return sum
	}
	first := matched()
	return testenv.Within(patience, func() error {
		if now := matched(); now <= first {
			return fmt.Errorf("%d matched, as before", now)
		}
		return nil
	})
}

// unpinned is the error of pins that are left.
func unpinned() error {
	left, err := os.ReadDir(pin.Root)
	if err == nil && len(left) > 0 {
		return fmt.Errorf("%s is in %s", left[0].Name(), pin.Root)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// counted is the error of a result that does not go on from an earlier status
// of its run: with the same dice, and with more packets.
func counted(status, result string) error {
	var before v1.NodeStatus
	var after v1.Result
	if err := errors.Join(protojson.Unmarshal([]byte(status), &before), protojson.Unmarshal([]byte(result), &after)); err != nil {
		return err
	}
	first, last := before.GetRuns()[0], after.GetFaults()[0]
	if first.GetRunId() != after.GetRunId() || last.GetMatched() <= first.GetFaults()[0].GetMatched() {
		return fmt.Errorf("run %s had %v, and as run %s %v", first.GetRunId(), first.GetFaults()[0], after.GetRunId(), last)
	}
	// The chatter sends 200 a second at the most, through all of the fault.
	took := last.GetEndTime().AsTime().Sub(last.GetStartTime().AsTime())
	if rate := float64(last.GetMatched()) / took.Seconds(); rate < 20 {
		return fmt.Errorf("%.0f packets a second matched in %s: some are not counted", rate, took)
	}
	return nil
}

// until runs a program again and again until a line of what it prints matches.
func until(ts *testscript.TestScript, expression, program string, args []string) error {
	wanted, err := regexp.Compile("(?m)" + expression)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		_ = ts.Exec(program, args...) // its answer is what counts
		if wanted.MatchString(ts.ReadFile("stdout")) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s: no line matches %q", program, strings.Join(args, " "), expression)
		}
	}
}
