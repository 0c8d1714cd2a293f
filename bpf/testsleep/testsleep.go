// Package testsleep holds a compiled program that lets a process sleep. Tests of
// faults/sleeper use it.
package testsleep

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package testsleep Objects testsleep.bpf.c
