package tracing

import (
	"fmt"
	"slices"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
)

// The mechanisms at the hooks of the security modules.
const (
	MechanismLSM    = "lsm"
	MechanismModify = "fmod_ret_security"
)

// securityPrefix begins the names of the functions that ask all modules.
const securityPrefix = "security_"

// Shape names the programs of AT_HOOK(shape, ...) or AT_FUNCTION of
// bpf/include/hooks.h: what the arguments of a hook are.
type Shape string

// HookConfig is struct fl_hook.
type HookConfig struct {
	Operation      uint32
	Mask           uint32
	OtherOperation uint32
	OtherMask      uint32
}

// hookVariable holds it.
const hookVariable = "fl_hook"

// SecurityHook is one by which the kernel asks its security modules
// (linux/lsm_hook_defs.h), and which of its calls are meant.
type SecurityHook struct {
	Name  string
	Shape Shape
	// Operation is what events say, and What its name.
	Operation uint32
	What      string
	// Mask selects calls by the second argument; 0 takes all. Two operations may
	// share a hook, each with a mask of its own.
	Mask uint32
	// Newer: not all kernels have it; those before do the same by another one of the
	// operation.
	Newer bool
}

// AtSecurityHooks are the programs at some hooks, by MechanismLSM or MechanismModify.
func AtSecurityHooks(mechanism string, hooks []SecurityHook) (list []Hook, err error) {
	prefix := "bpf_lsm_"
	if mechanism == MechanismModify {
		prefix = securityPrefix
	}
	var names []string
	for _, hook := range hooks {
		names = append(names, prefix+hook.Name)
	}
	ids, err := kernel.FunctionIDs(names)
	if err != nil {
		return nil, err
	}
	for i, hook := range hooks {
		if slices.Index(names, names[i]) < i {
			continue // with the first of that name
		}
		id, found := ids[names[i]]
		if !found && hook.Newer {
			continue
		}
		if !found {
			return nil, fmt.Errorf("it is %w: %s: operation %s needs %s, which this kernel does not have", fault.ErrUnavailable, mechanism, hook.What, names[i])
		}
		config := HookConfig{Operation: hook.Operation, Mask: hook.Mask}
		if other := slices.Index(names[i+1:], names[i]); other >= 0 {
			config.OtherOperation, config.OtherMask = hooks[i+1+other].Operation, hooks[i+1+other].Mask
		}
		at := Hook{Function: names[i], ID: id, Name: hook.Name}
		if mechanism == MechanismLSM {
			at.Program, at.Variables = "fl_lsm_"+string(hook.Shape), hookVariables(config)
			list = append(list, at)
			continue
		}
		list = append(list, at.Modified(hook.Shape, config)...)
	}
	return list, nil
}

func hookVariables(config HookConfig) map[string]any { return map[string]any{hookVariable: config} }

// Modified are the hooks of a function whose result programs of a shape replace:
// those of its trampoline, and on a kernel that preempts a probe for them.
func (h Hook) Modified(shape Shape, config HookConfig) []Hook {
	h.Variables = hookVariables(config)
	if kernel.Preempts() {
		h.Program = "fl_probe_" + string(shape)
		return h.Delivered()
	}
	h.Program, h.Alone = "fl_mod_"+string(shape), true
	return []Hook{h}
}
