package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// strayBreakpoint is how a guest dies whose virtual CPU ran an instruction that another
// one was just writing (test/vm/README.md, "Traps"): a matter of the emulator, seen when a
// branch of the kernel's code is switched, as by the first cpu.max.
const strayBreakpoint = "Oops: int3"

// bootAgain lets what was left by a guest that has died so, or that hung before anything
// of ours ran in it, run in another one, once.
func (m *matrix) bootAgain(ctx context.Context, k *kernelRun) {
	if k.Problem == "" || ctx.Err() != nil {
		return
	}
	console, err := os.ReadFile(m.console(k.Kernel, k.suffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.Problem += "\n" + err.Error()
		return
	}
	var why string
	switch {
	case strings.Contains(string(console), strayBreakpoint):
		why = "died of a breakpoint that the emulator ran by mistake"
		// The last one was under way.
		if n := len(k.Packages); n > 0 && k.Packages[n-1].Problem != "" {
			k.Packages = k.Packages[:n-1]
		}
	case k.hung && len(k.Packages) == 0:
		why = "hung before the first package began, after these lines of its console:\n" + indent(tail(string(console), 15)) + "\n"
	default:
		return
	}
	left := k.Wanted[len(k.Packages):]
	if len(left) == 0 {
		return
	}
	fmt.Fprintf(m.w, "again, in another guest: %s %s; from %s on\n", k.Kernel, why, left[0].ImportPath)
	second := m.guest(ctx, k.Kernel, "-rest", left)
	k.Packages = append(k.Packages, second.Packages...)
	k.Elapsed += second.Elapsed
	k.Problem = second.Problem
}

// console is where a guest's console is written.
func (m *matrix) console(id, suffix string) string {
	return filepath.Join(m.root, "build", "vm", id+suffix+".console")
}
