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

// What begins the names of the functions that ask all modules, and of those where a
// module of programs is asked.
const (
	securityPrefix = "security_"
	lsmPrefix      = "bpf_lsm_"
)

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
	// Newer says what asks there, where not all kernels have it; those before do the same
	// by another one of the operation.
	Newer string
}

// AtSecurityHooks are the programs at some hooks, by MechanismLSM or MechanismModify.
func AtSecurityHooks(mechanism string, hooks []SecurityHook) (list []Hook, err error) {
	if mechanism == MechanismModify {
		found, err := find(mechanism, securityPrefix, hooks)
		for _, at := range found {
			list = append(list, at.Modified(at.shape, at.config)...)
		}
		return list, err
	}
	found, err := find(mechanism, lsmPrefix, hooks)
	for _, at := range found {
		at.Program, at.Variables = "fl_lsm_"+string(at.shape), hookVariables(at.config)
		list = append(list, at.Hook)
	}
	return list, err
}

// found is a hook without a program.
type found struct {
	Hook
	shape  Shape
	config HookConfig
}

// find looks for the functions of hooks by which a mechanism meets them.
func find(mechanism, prefix string, hooks []SecurityHook) (list []found, err error) {
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
		id, there := ids[names[i]]
		if !there && hook.Newer != "" {
			continue
		}
		if !there {
			return nil, fmt.Errorf("it is %w: %s: operation %s needs %s, which this kernel does not have", fault.ErrUnavailable, mechanism, hook.What, names[i])
		}
		config := HookConfig{Operation: hook.Operation, Mask: hook.Mask}
		if other := slices.Index(names[i+1:], names[i]); other >= 0 {
			config.OtherOperation, config.OtherMask = hooks[i+1+other].Operation, hooks[i+1+other].Mask
		}
		list = append(list, found{Hook{Function: names[i], ID: id, Name: hook.Name, Spare: hook.Newer}, hook.Shape, config})
	}
	return list, nil
}

func hookVariables(config HookConfig) map[string]any { return map[string]any{hookVariable: config} }

// Modified are the hooks of a function whose result programs of a shape replace:
// those of its trampoline, and on a kernel that preempts a probe for them.
func (h Hook) Modified(shape Shape, config HookConfig) []Hook {
	if kernel.Preempts() {
		return h.Probed(shape, config).Delivered()
	}
	h.Program, h.Variables, h.Alone = "fl_mod_"+string(shape), hookVariables(config), true
	return []Hook{h}
}

// Probed is the hook with the probe of a shape.
func (h Hook) Probed(shape Shape, config HookConfig) Hook {
	h.Program, h.Variables = "fl_probe_"+string(shape), hookVariables(config)
	return h
}
