/* SPDX-License-Identifier: GPL-2.0-only */
/* The cgroups of the target, by id. */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

enum {
	/* Deepest cgroup below the root of the hierarchy that can be a target. */
	LEVELS_MAX = 24,
	TARGETS_MAX = 4096,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TARGETS_MAX);
	__type(key, __u64);
	__type(value, __u8);
} fl_targets SEC(".maps");
