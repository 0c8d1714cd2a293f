//go:build linux && privileged

package pin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.MountBPF()
	env.Main(m, map[string]env.Workload{"stop-at": stopAt})
}

// recorder keeps what is written in memory; that PinDir is not empty makes the
// fault pinned.
type recorder struct {
	dir     string
	refuse  error
	records []fault.Undo
	watches []fault.Watch
}

func (r *recorder) Record(undo fault.Undo) (fault.Undone, error) {
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.records = append(r.records, undo)
	return undo, nil
}

func (r *recorder) Watch(watch fault.Watch) error {
	r.watches = append(r.watches, watch)
	return nil
}

func (r *recorder) PinDir() string { return r.dir }

func (r *recorder) Commons() *fault.Commons { return nil }

// newRecorder has a directory of the test's own.
func newRecorder(t *testing.T) *recorder {
	t.Helper()
	answer := kernel.NewProber("", slog.New(slog.DiscardHandler)).Probe(t.Context(), kernel.BPFFS)
	if !answer.OK() {
		t.Fatalf("%s: %s", kernel.BPFFS, answer.Reason)
	}
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	return &recorder{dir: filepath.Join(pin.Root, name, "1")}
}

func newMap(t testing.TB) *ebpf.Map {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "fl_test", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func gone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
}

func TestPinsAreCompletedInOneStep(t *testing.T) {
	rec := newRecorder(t)
	p, err := pin.New(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.records) != 1 || len(rec.watches) != 1 {
		t.Errorf("%d records, %d watches", len(rec.records), len(rec.watches))
	}
	m := newMap(t)
	if err := m.Put(uint32(0), uint32(7)); err != nil {
		t.Fatal(err)
	}
	if err := p.Pin("map_a", m); err != nil {
		t.Fatal(err)
	}
	if err := p.Pin("map.b", m); err == nil {
		t.Error("took a dot in a name")
	}
	gone(t, rec.dir)
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := p.Pin("map_b", m); err != nil {
		t.Errorf("pinning after it is complete: %v", err)
	}
	names, err := p.Names()
	if err != nil || !slices.Equal(names, []string{"map_a", "map_b"}) {
		t.Errorf("names %q, %v", names, err)
	}
	lines, err := rec.watches[0].State()
	if err != nil || len(rec.watches[0].Differences(nil, lines)) != 3 {
		t.Errorf("the proof sees %q, %v", lines, err)
	}
	if _, err := pin.Open(rec.dir, nil); err == nil || !strings.Contains(err.Error(), "alive") {
		t.Errorf("opening what has an owner: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	again, err := pin.Open(rec.dir, rec.records[0])
	if err != nil {
		t.Fatal(err)
	}
	found, err := again.Map("map_a")
	if err != nil {
		t.Fatal(err)
	}
	var value uint32
	if err := errors.Join(found.Lookup(uint32(0), &value), found.Close()); err != nil || value != 7 {
		t.Errorf("the map has %d, %v", value, err)
	}
	if _, err := again.Map("map_c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a pin that is not there: %v", err)
	}
	if _, err := again.Program("map_a"); err == nil {
		t.Error("took a map for a program")
	}
	for range 2 {
		if err := again.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
	gone(t, rec.dir, filepath.Dir(rec.dir))
	if lines, err := rec.watches[0].State(); err != nil || len(lines) > 0 {
		t.Errorf("the proof sees %q, %v", lines, err)
	}
}

// What is not on record is not made, and what is somebody else's is no target
// of an undo.
func TestNothingIsTouchedWithoutARecord(t *testing.T) {
	rec := newRecorder(t)
	rec.refuse = errors.New("disk full")
	if _, err := pin.New(t.Context(), rec); !errors.Is(err, rec.refuse) {
		t.Errorf("error %v", err)
	}
	gone(t, rec.dir, filepath.Dir(rec.dir))
	rec.refuse = nil
	for _, dir := range []string{rec.dir, rec.dir + "-new"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := pin.New(t.Context(), rec); !errors.Is(err, fs.ErrExist) {
			t.Errorf("error %v", err)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("somebody else's directory: %v", err)
		}
	}
	if err := os.Remove(filepath.Dir(rec.dir)); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{pin.Root, filepath.Dir(rec.dir), pin.Root + "/1.2/3"} {
		if _, err := pin.New(t.Context(), &recorder{dir: dir}); err == nil {
			t.Errorf("pins in %q", dir)
		}
	}
	for _, dir := range []string{"", "/", "/tmp", "/sys/fs/bpf", "/sys/fs/bpf/other/1/2", pin.Root + "x/1", pin.Root + "/1/2/3", pin.Root + "/../1"} {
		if _, err := pin.New(t.Context(), &recorder{dir: dir}); err == nil {
			t.Errorf("pins in %q", dir)
		}
		if err := (pin.Directory{Dir: dir}).Undo(t.Context()); err == nil {
			t.Errorf("removes %q", dir)
		}
	}
	if len(rec.records) > 0 {
		t.Errorf("on record: %v", rec.records)
	}
}

// Where bpffs is not mounted nothing is changed, and nothing is left of what
// was pinned.
func TestWithoutBPFFS(t *testing.T) {
	result := make(chan error)
	rec := newRecorder(t)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS)
		err = errors.Join(err, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		for err == nil && pin.Available() == nil {
			err = unix.Unmount(pin.Mount, unix.MNT_DETACH)
		}
		if err != nil {
			result <- err
			return
		}
		if _, err := pin.New(t.Context(), rec); !errors.Is(err, pin.ErrUnavailable) || !strings.Contains(err.Error(), "mount -t bpf") {
			t.Errorf("error %v", err)
		}
		err = pin.Directory{Dir: rec.dir}.Undo(t.Context())
		list, remnantsErr := pin.Remnants()
		if len(list) > 0 {
			t.Errorf("remnants %v", list)
		}
		result <- errors.Join(err, remnantsErr)
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if len(rec.records)+len(rec.watches) > 0 {
		t.Errorf("on record: %v", rec.records)
	}
}

// steps of a transaction: begun, two maps, a program, a link, complete.
const steps = 6

// stopAt does the first args[2] steps in the directory args[0], with a link on
// the cgroup args[1], and waits to be killed.
func stopAt(in io.Reader, out *json.Encoder, args []string) error {
	last, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	var p *pin.Pins
	var program *ebpf.Program
	for step := range last {
		switch step {
		case 0:
			p, err = pin.New(context.Background(), &recorder{dir: args[0]})
		case 1, 2:
			var m *ebpf.Map
			m, err = ebpf.NewMap(&ebpf.MapSpec{Name: "fl_test", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err == nil {
				err = p.Pin("map_"+strconv.Itoa(step), m)
			}
		case 3:
			program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "fl_test", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
			})
			if err == nil {
				err = p.Pin("prog_a", program)
			}
		case 4:
			var l link.Link
			l, err = link.AttachCgroup(link.CgroupOptions{Path: args[1], Attach: ebpf.AttachCGroupInetEgress, Program: program})
			if err == nil {
				err = p.Pin("link_a", l)
			}
		case 5:
			err = p.Commit()
		}
		if err != nil {
			return err
		}
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// A process is killed between any two steps: its directory is known as a
// remnant as soon as it is dead, and the undo needs nothing but the name.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	rec := newRecorder(t)
	home, cgroup := env.Cgroup(t), env.Cgroup(t)
	for last := 1; last <= steps; last++ {
		p := env.Start(t, home, nil, "stop-at", rec.dir, cgroup.Path, strconv.Itoa(last))
		var ready string
		p.Read(&ready)
		undo := pin.Directory{Dir: rec.dir}
		if found(t, undo) {
			t.Errorf("after %d steps: what belongs to a live process is taken for a remnant", last)
		}
		p.Kill()
		if !found(t, undo) {
			t.Errorf("after %d steps: not found", last)
		}
		if last < steps {
			if _, err := pin.Open(rec.dir, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after %d steps: opened what is not complete: %v", last, err)
			}
		}
		if got := attached(t, cgroup); got != (last >= 5) {
			t.Errorf("after %d steps: attached %v", last, got)
		}
		for range 2 {
			if err := undo.Undo(t.Context()); err != nil {
				t.Errorf("after %d steps: %v", last, err)
			}
		}
		gone(t, rec.dir, rec.dir+"-new", filepath.Dir(rec.dir))
		if attached(t, cgroup) {
			t.Errorf("after %d steps: still attached", last)
		}
	}
}

func found(t *testing.T, undo fault.Undo) bool {
	t.Helper()
	list, err := pin.Remnants()
	if err != nil {
		t.Error(err)
	}
	return slices.Contains(list, undo)
}

func attached(t *testing.T, cgroup fault.Cgroup) bool {
	t.Helper()
	dir, err := os.Open(cgroup.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInetEgress})
	if err != nil {
		t.Fatal(err)
	}
	return len(result.Programs) > 0
}

// Empty directories above those of the faults are remnants as well.
func TestEmptyDirectoriesAreRemnants(t *testing.T) {
	rec := newRecorder(t)
	run := filepath.Dir(rec.dir)
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	undo := pin.Directory{Dir: run}
	if !found(t, undo) {
		t.Error("not found")
	}
	if err := undo.Undo(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, run)
}

// One fault's undo takes away the directories above it while another one of
// the same run is just making them.
func TestFaultsOfARunComeAndGo(t *testing.T) {
	rec := newRecorder(t)
	m := newMap(t)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			own := &recorder{dir: filepath.Join(filepath.Dir(rec.dir), strconv.Itoa(worker))}
			for range 1000 {
				p, err := pin.New(t.Context(), own)
				if err == nil {
					err = errors.Join(p.Pin("map_a", m), p.Commit(), p.Remove(t.Context()))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	gone(t, filepath.Dir(rec.dir))
}
