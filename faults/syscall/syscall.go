// Package syscall holds the faults of system calls: they are met at the entry of
// the call (bpf/syscalls), before it has done anything, or, where the kernel lets nobody
// answer there, when it asks its security modules.
package syscall

import (
	"fmt"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/nearest"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

//go:generate go run ./gen

// Kinds are the kinds of the family, in the order of the contract.
func Kinds() []fault.Kind { return []fault.Kind{Error(), Delay()} }

// unanswered are calls that never return to their caller, or not as calls do. A
// process needs them to end and to be stopped.
var unanswered = []string{"exit", "exit_group", "rt_sigreturn"}

// conditionsMax is CONDITIONS_MAX of bpf/syscalls/call.h.
const conditionsMax = 16

// maxArgument is the index of a system call's last argument.
const maxArgument = 5

func validateCalls(p *check.Problems, spec interface {
	GetCalls() []string
	GetArguments() []*v1.Argument
	GetPath() string
}) {
	if len(spec.GetCalls()) == 0 {
		p.Add("calls", "is missing; give at least one name of syscalls(2), such as openat")
	}
	for i, call := range spec.GetCalls() {
		at := fmt.Sprintf("calls[%d]", i)
		_, known := slices.BinarySearch(names, call)
		switch {
		case !known:
			hint := "write a name of syscalls(2), such as openat"
			if word, ok := nearest.Word(call, names); ok {
				hint = fmt.Sprintf("did you mean %q?", word)
			}
			p.Add(at, "unknown system call %q; %s", call, hint)
		case slices.Contains(unanswered, call):
			p.Add(at, "%q does not return to its caller, so that nothing could be injected", call)
		case slices.Contains(spec.GetCalls()[:i], call):
			p.Add(at, "%q is given twice", call)
		}
	}
	if n := len(spec.GetArguments()); n > conditionsMax {
		p.Add("arguments", "are %d conditions; at most %d are allowed", n, conditionsMax)
	}
	for i, argument := range spec.GetArguments() {
		at := fmt.Sprintf("arguments[%d].", i)
		if argument.GetIndex() > maxArgument {
			p.Add(at+"index", "is %d; allowed is 0 to %d", argument.GetIndex(), maxArgument)
		}
		if argument.GetIs() == v1.Argument_COMPARISON_UNSPECIFIED {
			p.Add(at+"is", "is missing; give one of EQUAL, NOT_EQUAL, LESS, GREATER, HAS_BITS")
		}
	}
	validatePath(p, spec.GetPath(), spec.GetCalls())
}
