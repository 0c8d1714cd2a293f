// Package cgroupskb holds the compiled programs of the cgroup's packet hooks.
package cgroupskb

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2" -go-package cgroupskb Objects cgroupskb.bpf.c
