package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// rejected is what the library returns when the verifier says no.
func rejected(errno unix.Errno, log ...string) error {
	return fmt.Errorf("load program: %w", &ebpf.VerifierError{Cause: errno, Log: log})
}

func TestClassify(t *testing.T) {
	root := caller{privileged: true}
	user := caller{missing: "CAP_SYS_ADMIN"}
	tests := map[string]struct {
		err    error
		caller caller
		want   Availability
		reason string // part of it
		remedy string // part of it
	}{
		"no error is yes": {nil, root, Yes, "", ""},
		"kernel without error injection": {
			atStage(stageLoad, rejected(unix.EINVAL, "__x64_sys_getpgid() is not modifiable", "processed 0 insns (limit 1000000)")),
			root, No, "__x64_sys_getpgid() is not modifiable", "CONFIG_FUNCTION_ERROR_INJECTION"},
		"hook that must not sleep": {
			rejected(unix.EINVAL, "bpf_lsm_file_permission is not sleepable"), root, No, "may not sleep", "remedy"},
		"fmod_ret that must not sleep, in the words of 5.10": {
			rejected(unix.EINVAL, "security_socket_create is not sleepable"), root, No, "may not sleep", "remedy"},
		"helper unknown to an old kernel": {
			rejected(unix.EINVAL, "invalid func unknown#187"), root, No, "helper", "remedy"},
		"helper not for this type": {
			rejected(unix.EINVAL, "program of this type cannot use helper bpf_override_return#58"), root, No, "bpf_override_return", "remedy"},
		"helper taken away by lockdown": {
			rejected(unix.EINVAL, "program of this type cannot use helper bpf_probe_read#4"), root, No, "locked down", "lockdown="},
		"kernel function not allowed": {
			rejected(unix.EACCES, "calling kernel function bpf_task_from_pid is not allowed"), root, No, "bpf_task_from_pid", "remedy"},
		"words that nobody has seen yet": {
			rejected(unix.EACCES, "R7 invalid mem access 'scalar'", "processed 3 insns"), root, Unknown, "R7 invalid mem access", "remedy"},
		"verifier without words": {
			rejected(unix.EINVAL, "processed 0 insns (limit 1000000)"), root, No, "invalid argument", "remedy"},
		"root is refused": {
			atStage(stageLoad, fmt.Errorf("load program: %w%s", unix.EPERM, memlockHint)), root, No, "even to root", "seccomp"},
		"root is refused by lockdown": {
			atStage(stageLoad, unix.EPERM), caller{privileged: true, lockdown: "confidentiality"}, No, "locked down (confidentiality)", "lockdown="},
		"a user is refused": {
			atStage(stageLoad, unix.EPERM), user, Unknown, "lacks CAP_SYS_ADMIN", "run as root"},
		"an ancestor's exclusive program": {
			atStage(stageCgroup, unix.EPERM), root, No, "ancestor", "BPF_F_ALLOW_MULTI"},
		"a user at a cgroup":                    {atStage(stageCgroup, unix.EPERM), user, Unknown, "CAP_SYS_ADMIN", ""},
		"a cgroup that root can't make":         {atStage(stageSetup, unix.EACCES), root, Unknown, "setting up", ""},
		"setup that meets an unknown thing":     {atStage(stageSetup, unix.ENOENT), root, Unknown, "setting up", ""},
		"function not in the types":             {atStage(stageLoad, fmt.Errorf("x: %w", btf.ErrNotFound)), root, No, "does not have it", "remedy"},
		"the library's not supported":           {atStage(stageAttach, fmt.Errorf("x: %w", ebpf.ErrNotSupported)), root, No, "does not have it", "remedy"},
		"program type unknown to an old kernel": {atStage(stageLoad, unix.EINVAL), root, No, "does not have it", "remedy"},
		"ENOTSUPP from a trampoline":            {atStage(stageAttach, unix.Errno(524)), root, No, "does not have it", "remedy"},
		"no memory":                             {atStage(stageLoad, unix.ENOMEM), root, Unknown, "out of something", "again"},
		"no descriptors":                        {atStage(stageLoad, unix.EMFILE), root, Unknown, "out of something", "again"},
		"cancelled":                             {context.Canceled, root, Unknown, "cut short", "again"},
		"an errno that means nothing here":      {atStage(stageAttach, unix.ERANGE), root, Unknown, "out of range", "remedy"},
		"a finished no gets the remedy":         {noBecause("because", ""), root, No, "because", "remedy"},
		"a finished no keeps its remedy":        {fmt.Errorf("x: %w", noBecause("because", "own")), root, No, "because", "own"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := classify(tt.err, tt.caller, "the remedy")
			if a.Available != tt.want || !strings.Contains(a.Reason, tt.reason) || !strings.Contains(a.Remedy, tt.remedy) {
				t.Errorf("got %+v, want %s, reason with %q, remedy with %q", a, tt.want, tt.reason, tt.remedy)
			}
			if strings.Contains(a.Reason, "MEMLOCK") {
				t.Errorf("reason passes on the library's guess: %q", a.Reason)
			}
		})
	}
}

// The cleanup of a probe must not turn its answer around.
func TestClassifyJoinedErrors(t *testing.T) {
	err := errors.Join(noBecause("because", ""), atStage(stageSetup, unix.EBUSY))
	if a := classify(err, caller{privileged: true}, "remedy"); a.Available != No || a.Reason != "because" {
		t.Errorf("got %+v, want the probe's own answer", a)
	}
}

func TestExplain(t *testing.T) {
	err := fmt.Errorf("load program: %w%s\n\tmore", unix.EPERM, memlockHint)
	if got, want := Explain(err), "load program: operation not permitted more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Explain(nil); got != "" {
		t.Errorf("got %q for no error", got)
	}
}

func TestHierarchy(t *testing.T) {
	const cgroups = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t4\t1\nblkio\t0\t9\t1\nmemory\t0\t9\t0\n"
	for controller, want := range map[string]int{"cpu": 1, "blkio": 0, "memory": -1, "pids": -1} {
		if got := hierarchy(cgroups, controller); got != want {
			t.Errorf("%s: got %d, want %d", controller, got, want)
		}
	}
}

func TestEveryCapabilityIsExplained(t *testing.T) {
	seen := map[Capability]bool{}
	for _, e := range catalogue {
		if e.name == "" || seen[e.name] {
			t.Errorf("name %q is empty or used twice", e.name)
		}
		seen[e.name] = true
		if e.title == "" || strings.HasSuffix(e.title, ".") || Title(e.name) != e.title {
			t.Errorf("%s: title %q", e.name, e.title)
		}
		if e.remedy == "" || e.probe == nil {
			t.Errorf("%s: no remedy or no probe", e.name)
		}
	}
}
