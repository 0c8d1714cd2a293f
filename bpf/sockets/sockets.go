// Package sockets holds the compiled programs at the hooks of socket calls: Objects,
// and OldObjects for kernels before 5.12 (bpf/include/order.h).
package sockets

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package sockets Objects sockets.bpf.c
//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2 -DFL_TOKEN" -go-package sockets OldObjects sockets.bpf.c
