//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/* Operations on files that fail. */
#include "../include/hooks.h"

char LICENSE[] SEC("license") = "GPL";

/* A negative errno; 0: it goes on. */
typedef int fl_verdict_t;

static __always_inline fl_verdict_t decide_verdict(__u64 start, __u64 now, int *sampled)
{
	return negative(decide_failure(start, now, sampled));
}

static __always_inline __u32 error_of(fl_verdict_t verdict)
{
	return -verdict;
}

#include "operation.h"
