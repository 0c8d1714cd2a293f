// Package syscalls holds the compiled programs at the functions of system calls:
// Objects, and OldObjects for kernels before 5.12 (bpf/include/order.h); and Delays, which
// are for kernels that let programs sleep.
package syscalls

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package syscalls Objects syscalls.bpf.c
//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2 -DFL_TOKEN" -go-package syscalls OldObjects syscalls.bpf.c
//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package syscalls Delays delays.bpf.c
