//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/* Counts the system calls of the target when they return, by their result. */
#include "../include/lease.h"
#include "../include/read.h"
#include "../include/stats.h"
#include "../include/task.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	CALLS_MAX = 16384,
	PATHS_MAX = 16384,
	PATH_SIZE = 240,
	ERRNO_MAX = 4095,
	TABLE_SIZE = 1024,
	ARGUMENTS = 6,
};

struct fl_trace_config {
	struct fl_target target;
	/* In the registers of a call, bytes. */
	__u32 number_offset;
	__u32 argument_offset[ARGUMENTS];
	/* In the task: a bit of a word tells a call of 32 bits. */
	__u32 compat_offset;
	__u32 compat_bit;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_trace_config) == 48, "known to Go");

volatile const struct fl_trace_config fl_trace_config;

struct fl_call {
	__u32 number;
	__u32 error; /* 0: it succeeded */
	__u32 compat;
};
_Static_assert(sizeof(struct fl_call) == 12, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CALLS_MAX);
	__type(key, struct fl_call);
	__type(value, __u64);
} fl_calls SEC(".maps");

struct fl_path {
	__u32 number;
	__u32 error;
	char path[PATH_SIZE];
};
_Static_assert(sizeof(struct fl_path) == 248, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, PATHS_MAX);
	__type(key, struct fl_path);
	__type(value, __u64);
} fl_paths SEC(".maps");

/* Which argument of a call is a path, counted from 1; 0: none that is wanted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TABLE_SIZE);
	__type(key, __u32);
	__type(value, __u32);
} fl_path_arguments SEC(".maps");

/* What there is no room for counts as chosen and not hit. */
static __always_inline void add(void *map, const void *key)
{
	__u64 *value = bpf_map_lookup_elem(map, key), zero = 0;

	if (!value) {
		bpf_map_update_elem(map, key, &zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(map, key);
	}
	if (!value) {
		count(chosen);
		return;
	}
	__sync_fetch_and_add(value, 1);
}

static __always_inline void add_path(const void *registers, __u32 number, __u32 error)
{
	__u32 *argument = bpf_map_lookup_elem(&fl_path_arguments, &number);
	struct fl_path key = {};
	const void *at;
	__u32 index;

	if (!argument)
		return;
	index = *argument - 1;
	if (index >= ARGUMENTS)
		return;
	at = load_pointer(registers + fl_trace_config.argument_offset[index]);
	if (bpf_probe_read_user_str(key.path, sizeof(key.path), at) < 0)
		return;
	key.number = number;
	key.error = error;
	add(&fl_paths, &key);
}

/* (struct pt_regs *registers, long result) */
SEC("raw_tp/sys_exit")
int fl_sys_exit(const __u64 *context)
{
	const volatile struct fl_trace_config *config = &fl_trace_config;
	const void *registers = (const void *)context[0];
	__s64 result = context[1];
	struct fl_call key = {};
	__u64 now;

	if (!lease_start(&now) || !runs_in(&config->target))
		return 0;
	count(matched);
	key.number = load_half(registers + config->number_offset);
	if (result < 0 && result >= -ERRNO_MAX)
		key.error = -result;
	key.compat = load_half((const void *)bpf_get_current_task() + config->compat_offset) >>
			     config->compat_bit & 1;
	add(&fl_calls, &key);
	if (!key.compat)
		add_path(registers, key.number, key.error);
	return 0;
}
