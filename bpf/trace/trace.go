// Package trace holds the compiled program that counts the system calls of a target.
package trace

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package trace Objects trace.bpf.c
