//go:build linux && privileged

package file_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/file"
	"faultline.dev/faultline/faults/tracing"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// late is a fault in which operations take longer.
func late(mechanism, path string, delay time.Duration, operations ...v1.FileOperation) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_FileDelay{FileDelay: &v1.FileDelay{Path: path, Operations: operations, Delay: durationpb.New(delay)}},
	}
}

func delayed(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, file.Delay(), spec, nil, targets...)
}

// atCalls are the operations that wait at the call where they can't wait where the kernel
// asks.
var atCalls = []v1.FileOperation{v1.FileOperation_READ, v1.FileOperation_WRITE, v1.FileOperation_FSYNC}

// can tells whether a mechanism by itself delays an operation.
func can(mechanism string, operation v1.FileOperation) bool {
	switch mechanism {
	case tracing.MechanismSleepableLSM:
		// Nobody may sleep in security_inode_link and security_inode_mkdir.
		return !slices.Contains(append(atCalls, v1.FileOperation_LINK, v1.FileOperation_MKDIR), operation)
	case tracing.MechanismSleepableModify:
		return slices.Contains(atCalls, operation)
	default:
		return true
	}
}

// Every operation is late below the path, and nowhere else, for the target and for
// nobody else.
func TestEachOperationIsLate(t *testing.T) {
	all := append(slices.Clone(operations), operation{
		v1.FileOperation_FSYNC, [][]string{{"create", "8", "@.synced"}}, []string{"fsync", "8"},
	})
	env.EachMechanism(t, file.Delay(), func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		inside, outside := newUser(t, target), newUser(t, env.Cgroup(t))
		dir := newDir(t)
		hit, elsewhere, others := put(t, dir+"/hit/a"), put(t, dir+"/elsewhere/a"), put(t, dir+"/hit/b")
		const delay = 100 * time.Millisecond
		for _, op := range all {
			if !can(mechanism, op.operation) || mechanism == tracing.MechanismSleepableModify && op.operation == v1.FileOperation_WRITE {
				continue // it is like READ, and takes as many programs
			}
			for _, before := range op.before {
				inside.must(at(hit, before)...)
			}
			i := delayed(t, late(mechanism, dir+"/hit/**", delay, op.operation), target)
			if mechanism == tracing.MechanismSleepableLSM && op.words[0] == "ftruncate" {
				if warned := strings.Join(i.Plan.Warnings, "\n"); !strings.Contains(warned, "not hit: ftruncate and open with O_TRUNC: ") {
					t.Errorf("warnings %q", warned)
				}
				i.End()
				continue
			}
			begin := time.Now()
			want := inside.do(at(hit, op.words)...)
			if took := time.Since(begin); took < delay {
				t.Errorf("it took %s", took)
			}
			expectCounters(t, i, 1, 1)
			for _, who := range []struct {
				user user
				path string
			}{{inside, elsewhere}, {outside, others}} {
				for _, before := range op.before {
					who.user.must(at(who.path, before)...)
				}
				// It ends as it does with the delay.
				who.user.expect(want, at(who.path, op.words)...)
			}
			expectCounters(t, i, 1, 1)
			i.End()
			if t.Failed() {
				t.Fatalf("with %s", op.words)
			}
		}
	})
}

// What is one for the program are several for the kernel, each of which waits.
func TestOperationsOfOneCallWaitEach(t *testing.T) {
	needMechanism(t, tracing.MechanismTaskWork)
	target := env.Cgroup(t)
	u := newUser(t, target)
	dir := newDir(t)
	put(t, dir+"/a")
	const delay = 200 * time.Millisecond
	i := delayed(t, late(tracing.MechanismTaskWork, dir+"/**", delay, v1.FileOperation_OPEN, v1.FileOperation_TRUNCATE), target)
	begin := time.Now()
	u.must("empty", "0", dir+"/a")
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("an open that truncates took %s", took)
	}
	expectCounters(t, i, 2, 2)
	i.End()
}

// needMechanism skips where the kernel lacks a mechanism, or fails where it is declared to
// have it.
func needMechanism(t *testing.T, names ...string) {
	t.Helper()
	for _, m := range file.Delay().Mechanisms {
		for _, need := range m.Needs {
			if answer := env.Prober(t).Probe(t.Context(), need); slices.Contains(names, m.Name) && !answer.OK() {
				kernels.Missing(t, string(need), errors.New(answer.Reason))
			}
		}
	}
}

// Some of the operations, as the rate says; those that wait for ever go on with the end.
func TestLateFilesWithARateAndForEver(t *testing.T) {
	env.EachMechanism(t, file.Delay(), func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		u, watched := newUser(t, target), newUser(t, target)
		dir := newDir(t)
		path := put(t, dir+"/a")
		words, operation := []string{"open", "0", path}, v1.FileOperation_OPEN
		if !can(mechanism, operation) {
			u.must("open", "0", path)
			watched.must("open", "0", path)
			words, operation = []string{"fsync", "0"}, v1.FileOperation_FSYNC
		}
		const delay, times = 100 * time.Millisecond, 6
		spec := late(mechanism, path, delay, operation)
		spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
		i := delayed(t, spec, target)
		begin := time.Now()
		for range times {
			u.must(words...)
		}
		if took := time.Since(begin); took < times/3*delay {
			t.Errorf("they took %s", took)
		}
		expectCounters(t, i, times, times/3)
		if event := env.FirstEvent(t, i); event.GetWhat() != operation.String() || event.GetPath() != "a" || event.GetErrno() != "" {
			t.Errorf("event %v", event)
		}
		i.End()

		spec.Rate = nil
		spec.GetFileDelay().Delay = units.Forever()
		i = delayed(t, spec, target)
		watched.tell(words...)
		awaitHit(t, i)
		i.End()
		if errno := watched.answer(); errno != 0 {
			t.Error(errno)
		}
		expectCounters(t, i, 1, 1)

		// One that is killed does not wait.
		i = delayed(t, spec, target)
		u.tell(words...)
		awaitHit(t, i)
		begin = time.Now()
		u.process.Kill()
		t.Logf("it was gone after %s", time.Since(begin))
		i.End()
	})
}

// awaitHit waits until an operation waits.
func awaitHit(t *testing.T, i *env.Injected) {
	t.Helper()
	if err := env.Within(30*time.Second, func() error {
		if c := i.Count(); c.Injected != 1 {
			return errors.New("nobody waits")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Operations of both kinds stand in one fault.
func TestMechanismsBesideEachOther(t *testing.T) {
	target := env.Cgroup(t)
	u := newUser(t, target)
	dir := newDir(t)
	path := put(t, dir+"/a")
	needMechanism(t, tracing.MechanismSleepableLSM, tracing.MechanismSleepableModify)
	i := delayed(t, late("sleepable_lsm", dir+"/**", 100*time.Millisecond, v1.FileOperation_OPEN, v1.FileOperation_FSYNC), target)
	if i.Plan.Mechanism != "sleepable_lsm+sleepable_fmod_ret" {
		t.Errorf("mechanism %s", i.Plan.Mechanism)
	}
	begin := time.Now()
	u.must("open", "0", path)
	u.must("fsync", "0")
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("they took %s", took)
	}
	expectCounters(t, i, 2, 2)
	i.End()
}
