//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/* Lets a process sleep whenever it opens a file, for a test. */
#include "../include/abi.h"
#include "../include/sleep.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

struct fl_test {
	__u64 delay; /* ns; at least 2^63: until it is woken */
	__u32 process;
	__u32 pad;
};

volatile const struct fl_test fl_test;

SEC("lsm.s/file_open")
int fl_open(const __u64 *arguments)
{
	__u64 delay = fl_test.delay;

	if (bpf_get_current_pid_tgid() >> 32 != fl_test.process)
		return 0;
	count(matched);
	if (delay >> 63 == 0)
		delay += bpf_ktime_get_boot_ns();
	if (sleep_until(delay))
		count(hit);
	return 0;
}
