// Package disk holds the compiled programs where the kernel takes block I/O.
package disk

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package disk Objects disk.bpf.c
