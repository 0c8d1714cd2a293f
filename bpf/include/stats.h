/* SPDX-License-Identifier: GPL-2.0-only */
/* Exact counters of one fault. */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

struct fl_stats {
	/* Events that the filter matched while the fault was on. */
	__u64 matched;
	/* Events that were to be hit. */
	__u64 chosen;
	/* Events that were hit where they were chosen. */
	__u64 hit;
};
_Static_assert(sizeof(struct fl_stats) == 24, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_stats);
} fl_stats SEC(".maps");

/*
 * A soft interrupt can come between the load and the store of a plain ++ on
 * its own CPU, so that even per-CPU counters need the atomic one to be exact.
 */
#define count(field) count_up(field, 1)

/* What was counted too early. */
#define uncount(field) count_up(field, -1)

#define count_up(field, by)                                                  \
	do {                                                                 \
		__u32 count_key = 0;                                         \
		struct fl_stats *count_stats =                               \
			bpf_map_lookup_elem(&fl_stats, &count_key);          \
		if (count_stats)                                             \
			__sync_fetch_and_add(&count_stats->field, by);       \
	} while (0)
