// Package dns holds the compiled programs that lead a cgroup's questions for names to a
// resolver of ours.
package dns

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package dns Objects dns.bpf.c
