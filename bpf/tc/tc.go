// Package tc holds the compiled programs of the interfaces' traffic control
// hooks.
package tc

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package tc Objects tc.bpf.c
