// Package files holds the compiled programs at the hooks of the security modules
// that are asked for files: Objects, and OldObjects for kernels before 5.12
// (bpf/include/order.h); and Delays, which are for kernels that let programs sleep.
package files

//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package files Objects files.bpf.c
//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v2 -DFL_TOKEN" -go-package files OldObjects files.bpf.c
//go:generate bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" -go-package files Delays delays.bpf.c
