//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/* Operations on files that take longer: probes decide how long; nothing is answered. */
#define FL_PROBES
#include "../include/delayed.h"

char LICENSE[] SEC("license") = "GPL";

/* How long it waits, ns; 0: it does not. */
typedef __u64 fl_verdict_t;

static __always_inline fl_verdict_t decide_verdict(__u64 start, __u64 now, int *sampled)
{
	return decide_delay(start, now, sampled);
}

static __always_inline __u32 error_of(fl_verdict_t verdict)
{
	return 0;
}

#include "operation.h"
