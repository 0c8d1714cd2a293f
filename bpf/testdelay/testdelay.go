// Package testdelay holds a compiled program that does nothing but draw delays.
// Tests let the kernel run it, and compare with faults/dice.
package testdelay

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package testdelay Objects testdelay.bpf.c
