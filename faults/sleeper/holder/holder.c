// SPDX-License-Identifier: GPL-2.0-only
/*
 * The holder: a process whose memory is asked for what is never there (bpf/include/sleep.h).
 * It maps descriptor 3, of as many bytes as it reads from descriptor 0 first, writes where
 * to descriptor 1, and waits for the end of descriptor 0.
 *
 * While somebody sleeps the kernel may hold its memory map locked, and whoever wants to
 * change it waits, with all who want to sleep behind: so it is no program with a
 * runtime that maps and unmaps, and touches nothing. The code stands alone, without
 * libraries, constants and variables: Go puts it into a file by itself.
 */
typedef unsigned long word;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, MMAP = 9, MADVISE = 28, EXIT_GROUP = 231 };

static inline __attribute__((always_inline)) long call(long number, word a, word b, word c,
						       word d, word e, word f)
{
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	register word r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, CLOSE = 57, MMAP = 222, MADVISE = 233, EXIT_GROUP = 94 };

static inline __attribute__((always_inline)) long call(long number, word a, word b, word c,
						       word d, word e, word f)
{
	register long x8 __asm__("x8") = number;
	register word x0 __asm__("x0") = a;
	register word x1 __asm__("x1") = b;
	register word x2 __asm__("x2") = c;
	register word x3 __asm__("x3") = d;
	register word x4 __asm__("x4") = e;
	register word x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return (long)x0;
}
#endif

enum { PROT_READ = 1, MAP_SHARED = 1, MADV_RANDOM = 1, ERRORS = 4096, FILE_TO_MAP = 3 };

void _start(void)
{
	word size = 0, at;

	if (call(READ, 0, (word)&size, sizeof(size), 0, 0, 0) != sizeof(size))
		call(EXIT_GROUP, 1, 0, 0, 0, 0, 0);
	at = call(MMAP, 0, size, PROT_READ, MAP_SHARED, FILE_TO_MAP, 0);
	if (at > -(word)ERRORS || call(MADVISE, at, size, MADV_RANDOM, 0, 0, 0))
		call(EXIT_GROUP, 2, 0, 0, 0, 0, 0);
	call(CLOSE, FILE_TO_MAP, 0, 0, 0, 0, 0);
	if (call(WRITE, 1, (word)&at, sizeof(at), 0, 0, 0) != sizeof(at))
		call(EXIT_GROUP, 3, 0, 0, 0, 0, 0);
	while (call(READ, 0, (word)&size, sizeof(size), 0, 0, 0) > 0)
		;
	call(EXIT_GROUP, 0, 0, 0, 0, 0, 0);
	__builtin_unreachable();
}
