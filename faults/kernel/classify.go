package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// stage is the step of a probe at which an error happened. The same errno
// means different things in different steps.
type stage int

const (
	stageLoad   stage = iota // loading a program or creating a map
	stageAttach              // attaching a tracing, LSM or tcx program
	stageCgroup              // attaching a program to a cgroup
	stageDevice              // making a qdisc, filter or interface
	stageSetup               // something the probe needs but does not test
)

// stageError remembers the step.
type stageError struct {
	stage stage
	err   error
}

func (e *stageError) Error() string { return e.err.Error() }
func (e *stageError) Unwrap() error { return e.err }

// atStage wraps a non-nil err.
func atStage(s stage, err error) error {
	if err == nil {
		return nil
	}
	return &stageError{s, err}
}

// answerError carries a finished answer out of a probe.
type answerError struct{ Answer }

func (e *answerError) Error() string { return e.Reason }

// noBecause is a conclusive no. An empty remedy is filled with the capability's.
func noBecause(reason, remedy string) error {
	return &answerError{Answer{No, reason, remedy}}
}

// unknownBecause is an answer that will be sought again.
func unknownBecause(reason, remedy string) error {
	return &answerError{Answer{Unknown, reason, remedy}}
}

var (
	errNoCgroup2 = noBecause("no cgroup v2 file system is mounted",
		"mount it: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1")
	errNoBTF = noBecause("the kernel has no type information (/sys/kernel/btf/vmlinux)",
		"a kernel built with CONFIG_DEBUG_INFO_BTF=y")
)

// memlockHint is what cilium/ebpf appends to every EPERM. It is misleading: the
// limit is out of the way before the first probe.
const memlockHint = " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"

// Explain returns the text of an error from the BPF library as it may be shown
// to users: one line, without the library's guess about locked memory.
func Explain(err error) string {
	if err == nil {
		return ""
	}
	s := strings.ReplaceAll(err.Error(), memlockHint, "")
	return strings.Join(strings.Fields(s), " ")
}

// caller is what the classification must know about this process.
type caller struct {
	privileged bool   // holds, in the initial user namespace, what the probes need
	missing    string // what it does not hold, in words
	lockdown   string // mode of the lockdown module, "" when not known
}

// verdicts of the verifier that are conclusive, by its own words. First match
// wins. The words come from kernel/bpf/verifier.c and have not changed since
// the hooks exist, where several are listed they changed.
var verdicts = []struct {
	words  []string
	reason string
	remedy string
}{
	{[]string{"is not modifiable"}, "the kernel does not let a program replace the result of this function",
		"a kernel built with CONFIG_FUNCTION_ERROR_INJECTION=y"},
	{[]string{"is not sleepable", "attach to sleepable", "can be sleepable"}, "programs on this hook may not sleep", ""},
	// Every kernel with kprobes has this one; only lockdown takes it away.
	{[]string{"helper bpf_probe_read", "func bpf_probe_read"}, "the kernel is locked down and lets no program read its memory",
		"boot without lockdown=confidentiality"},
	{[]string{"unknown func", "program of this type cannot use helper", "cannot use helper", "invalid func"},
		"the kernel does not have the helper function", ""},
	{[]string{"is not allowed"}, "the kernel does not allow this call from a program of this type", ""},
	{[]string{"is not a known attach point", "invalid attach_btf_id", "is not a function", "attach_btf_id", "points to disabled hook"},
		"the kernel does not have the function to attach to", ""},
}

// classify turns an error of a probe into an answer; nil is yes. What is not
// known to be conclusive is unknown.
func classify(err error, c caller, remedy string) Answer {
	if err == nil {
		return Answer{Available: Yes}
	}
	var done *answerError
	if errors.As(err, &done) {
		a := done.Answer
		if a.Remedy == "" {
			a.Remedy = remedy
		}
		return a
	}
	text := Explain(err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Answer{Unknown, "the probe was cut short: " + text, "ask again"}
	}
	for _, e := range []error{unix.ENOMEM, unix.EAGAIN, unix.EINTR, unix.EBUSY, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.EIO} {
		if errors.Is(err, e) {
			return Answer{Unknown, "the kernel is out of something just now: " + text, "ask again"}
		}
	}
	at := stageLoad
	var se *stageError
	if errors.As(err, &se) {
		at = se.stage
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		if log := spoken(verifier.Log); len(log) > 0 {
			return classifyVerifier(log, remedy)
		}
		text = verifier.Cause.Error()
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return classifyPermission(at, c, text)
	}
	if at == stageSetup {
		return Answer{Unknown, "setting up the probe: " + text, ""}
	}
	if errors.Is(err, btf.ErrNotFound) || errors.Is(err, ebpf.ErrNotSupported) {
		return Answer{No, "the kernel does not have it: " + text, remedy}
	}
	// 524 is the kernel's internal ENOTSUPP, which leaks from trampolines.
	for _, e := range []error{unix.EINVAL, unix.E2BIG, unix.ENOENT, unix.ENODEV, unix.ENOSYS, unix.EOPNOTSUPP,
		unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESRCH, unix.Errno(524)} {
		if errors.Is(err, e) {
			return Answer{No, "the kernel does not have it: " + text, remedy}
		}
	}
	return Answer{Unknown, text, remedy}
}

// AnswerOf says what an error means that came of loading or attaching a program;
// nil is yes.
func AnswerOf(err error) Answer { return classify(err, currentCaller(), "") }

// classifyVerifier goes by the verifier's words, since its errno is EINVAL or
// EACCES for everything. Words that are not known may be a fault of the probe.
func classifyVerifier(lines []string, remedy string) Answer {
	log := strings.Join(lines, "\n")
	for _, known := range verdicts {
		for _, w := range known.words {
			if !strings.Contains(log, w) {
				continue
			}
			if known.remedy != "" {
				remedy = known.remedy
			}
			return Answer{No, fmt.Sprintf("%s (%s)", known.reason, lineWith(lines, w)), remedy}
		}
	}
	return Answer{Unknown, "the verifier rejected the probe: " + lines[len(lines)-1], remedy}
}

// spoken is the log without empty lines and the statistics at its end, which is
// all there is when a check before the verification proper said no.
func spoken(log []string) []string {
	var lines []string
	for _, l := range log {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "processed ") {
			lines = append(lines, l)
		}
	}
	return lines
}

// lineWith returns the first line that holds the words.
func lineWith(log []string, words string) string {
	for _, l := range log {
		if strings.Contains(l, words) {
			return strings.TrimSpace(l)
		}
	}
	return words
}

// classifyPermission tells three refusals apart: the caller lacks a capability,
// an ancestor's program forbids company, the kernel refuses even root.
func classifyPermission(at stage, c caller, text string) Answer {
	switch {
	case !c.privileged:
		return Answer{Unknown, fmt.Sprintf("not permitted to this process, which lacks %s (%s)", c.missing, text),
			"run as root, or give it " + c.missing}
	case at == stageCgroup:
		return Answer{No, "an ancestor of the cgroup holds a program that forbids others below it: " + text,
			"detach it, or have its owner attach it with BPF_F_ALLOW_MULTI (old systemd: IPAddressAllow=, IPAddressDeny=)"}
	case at == stageSetup:
		return Answer{Unknown, "setting up the probe: " + text, ""}
	case c.lockdown != "" && c.lockdown != "none":
		return Answer{No, fmt.Sprintf("the kernel is locked down (%s) and refuses it even to root: %s", c.lockdown, text),
			"boot without lockdown= and with Secure Boot off"}
	}
	return Answer{No, "the kernel refuses it even to root: " + text,
		"look for kernel lockdown (/sys/kernel/security/lockdown), a security module or a container's seccomp filter that forbids it"}
}
