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

// bootAgain lets what was left by a guest that has died so run in another one, once.
func (m *matrix) bootAgain(ctx context.Context, k *kernelRun) {
	if k.Problem == "" || ctx.Err() != nil {
		return
	}
	console, err := os.ReadFile(m.console(k.Kernel, k.suffix))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		k.Problem += "\n" + err.Error()
		return
	}
	if !strings.Contains(string(console), strayBreakpoint) {
		return
	}
	// The last one was under way.
	if n := len(k.Packages); n > 0 && k.Packages[n-1].Problem != "" {
		k.Packages = k.Packages[:n-1]
	}
	left := k.Wanted[len(k.Packages):]
	if len(left) == 0 {
		return
	}
	fmt.Fprintf(m.w, "again, in another guest: %s died of a breakpoint that the emulator ran by mistake; from %s on\n", k.Kernel, left[0].ImportPath)
	second := m.guest(ctx, k.Kernel, "-rest", left)
	k.Packages = append(k.Packages, second.Packages...)
	k.Elapsed += second.Elapsed
	k.Problem = second.Problem
}

// console is where a guest's console is written.
func (m *matrix) console(id, suffix string) string {
	return filepath.Join(m.root, "build", "vm", id+suffix+".console")
}
