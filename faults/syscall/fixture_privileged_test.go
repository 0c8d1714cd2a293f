//go:build linux && privileged

package syscall_test

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) { env.Main(m, map[string]env.Workload{"http": serveHTTP}) }

// injected is what no call that is made here ends with by itself (errno 118).
const injected = unix.ENOTNAM

// needMechanism skips the test where the kernel lacks it, and fails it where the
// kernel is declared to have it; "auto" is there where one of them is.
func needMechanism(t *testing.T, name string) {
	t.Helper()
	prober := env.Prober(t)
	var missing kernel.Capability
	var why kernel.Answer
	for _, m := range syscall.Error().Mechanisms {
		if name != "auto" && name != m.Name {
			continue
		}
		missing = ""
		for _, need := range m.Needs {
			if answer := prober.Probe(t.Context(), need); !answer.OK() {
				missing, why = need, answer
			}
		}
		if missing == "" {
			return
		}
	}
	kernels.Missing(t, string(missing), errors.New(why.Reason))
}

// atEntry tells the mechanisms that answer calls at their entry.
func atEntry(mechanism string) bool { return mechanism == "fmod_ret" || mechanism == "kprobe_override" }

// some is the kind with those of its mechanisms alone that are wanted.
func some(wanted func(mechanism string) bool) fault.Kind {
	kind := syscall.Error()
	kind.Mechanisms = slices.DeleteFunc(kind.Mechanisms, func(m fault.Mechanism) bool { return !wanted(m.Name) })
	return kind
}

// eachMechanism runs a test with every mechanism of the kernel that answers calls at their
// entry.
func eachMechanism(t *testing.T, test func(t *testing.T, mechanism string)) {
	t.Helper()
	env.EachMechanism(t, some(atEntry), test)
}

// fails is a fault in which calls fail with the injected errno.
func fails(mechanism string, calls ...string) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_SyscallError{SyscallError: &v1.SyscallError{Calls: calls, Errno: "ENOTNAM"}},
	}
}

func inject(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, syscall.Error(), spec, nil, targets...)
}

// expect compares results.
func expect(t *testing.T, what string, got, want env.Results) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: results by errno %v, want %v", what, got, want)
	}
}

func expectCounters(t *testing.T, i *env.Injected, matched, hit uint64) {
	t.Helper()
	want := fault.Counters{Matched: matched, Injected: hit}
	if c := i.Count(); c != want {
		t.Errorf("counters %+v, want %+v", c, want)
	}
}

// onlyAMD64 skips what knows the numbers of one architecture.
func onlyAMD64(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the table is of amd64")
	}
}
