/* SPDX-License-Identifier: GPL-2.0-only */
/* Whether the task that runs is of the target. */
#pragma once

#include "targets.h"

enum {
	/* How many targets there can be where the kernel does not tell a task's
	 * ancestors. */
	CGROUPS_MAX = 32,
};

struct fl_target {
	/* Bit n: some target is at level n of the hierarchy. */
	__u32 levels;
	/* How many entries of fl_cgroups are used, where the kernel has no
	 * bpf_get_current_ancestor_cgroup_id in such programs (before 5.16); else 0. */
	__u32 cgroups;
};
_Static_assert(sizeof(struct fl_target) == 8, "known to Go");

/* The same for older kernels. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, CGROUPS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} fl_cgroups SEC(".maps");

/* The kernel tells a task's ancestors. */
static __always_inline int runs_below(const volatile struct fl_target *target)
{
	for (int level = 1; level < LEVELS_MAX; level++) {
		__u64 id;

		if (!(target->levels >> level & 1))
			continue;
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (id && bpf_map_lookup_elem(&fl_targets, &id))
			return 1;
	}
	return 0;
}

static __always_inline int runs_in(const volatile struct fl_target *target)
{
	if (!target->cgroups)
		return runs_below(target);
	for (__u32 i = 0; i < CGROUPS_MAX; i++) {
		if (i == target->cgroups)
			break;
		if (bpf_current_task_under_cgroup(&fl_cgroups, i) == 1)
			return 1;
	}
	return 0;
}
