// Package inbound holds the compiled programs that delay what a cgroup
// receives: one chooses packets as they come in, one gives them the time at
// which they may go on.
package inbound

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package inbound Objects inbound.bpf.c
