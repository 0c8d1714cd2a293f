/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lease: the first thing that every program looks at. It ends a fault that
 * nobody renews, whatever became of the agent.
 */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

struct fl_lease {
	/* CLOCK_BOOTTIME in ns. 0 until everything is attached, so that all
	 * programs of a fault begin at one moment. */
	__u64 deadline;
	/* When the fault began; ramp and pulses count from here. */
	__u64 start;
};
_Static_assert(sizeof(struct fl_lease) == 16, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_lease);
} fl_lease SEC(".maps");

/*
 * Returns when the fault began, or 0 when the lease is over. *now is the
 * CLOCK_BOOTTIME that was compared.
 */
static __always_inline __u64 lease_start(__u64 *now)
{
	__u32 key = 0;
	struct fl_lease *lease = bpf_map_lookup_elem(&fl_lease, &key);

	if (!lease || !lease->deadline)
		return 0;
	*now = bpf_ktime_get_boot_ns();
	if (*now >= lease->deadline || *now < lease->start)
		return 0;
	return lease->start;
}
