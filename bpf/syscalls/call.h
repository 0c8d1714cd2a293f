/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs at the entry of system calls are told, and whether they are
 * to answer a call. The kernel calls the function of a system call with one
 * argument: the registers of the process when it made the call.
 */
#pragma once

#include "../include/abi.h"
#include "../include/failure.h"
#include "path.h"

enum {
	CONDITIONS_MAX = 16,
	COMMAND_SIZE = 16, /* TASK_COMM_LEN */
};

/* How a call was made; it says where its arguments are. */
enum fl_entry {
	ENTRY_NATIVE = 0,
	/* By a 32-bit process of a 64-bit kernel. */
	ENTRY_32 = 1,
	ENTRIES = 2,
};

/* v1.Argument_Comparison. */
enum fl_comparison {
	IS_EQUAL = 1,
	IS_NOT_EQUAL = 2,
	IS_LESS = 3,
	IS_GREATER = 4,
	HAS_BITS = 5,
};

/* What an argument has to be. */
struct fl_condition {
	__s64 value;
	/* Where it is in the registers, bytes. */
	__u32 offset[ENTRIES];
	__u32 comparison; /* enum fl_comparison */
	__u32 pad;
};
_Static_assert(sizeof(struct fl_condition) == 24, "known to Go");

struct fl_call_config {
	/* All of them have to be met. */
	struct fl_condition conditions[CONDITIONS_MAX];
	__u32 conditions_used;
	/* Where in the registers the number of the call is, bytes, and what tells that
	 * they are those of a process (the two lowest bits of cs); 0: nothing does. */
	__u32 number_offset;
	__u32 mode_offset;
	/* In the task: its stack; a word, and the bit of it that tells a call of 32
	 * bits. */
	__u32 stack_offset;
	__u32 compat_offset;
	__u32 compat_bit;
};
_Static_assert(sizeof(struct fl_call_config) == CONDITIONS_MAX * 24 + 24, "known to Go");

volatile const struct fl_call_config fl_call_config;

/* A sample of the calls that were hit. */
struct fl_call_event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u64 cgroup; /* of the process */
	__u32 pid;
	__u32 number; /* of the call, in the table of its entry */
	__u32 entry; /* enum fl_entry */
	char command[COMMAND_SIZE];
	__u32 error; /* errno; 0: it was only observed */
};
_Static_assert(sizeof(struct fl_call_event) == 48, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} fl_events SEC(".maps");

static __always_inline void sample_call(const void *registers, enum fl_entry entry, __u32 error,
					__u64 now)
{
	struct fl_call_event *event = bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);

	if (!event)
		return;
	event->time = now;
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->entry = entry;
	event->number = 0;
	event->error = error;
	bpf_probe_read_kernel(&event->number, sizeof(event->number),
			      registers + fl_call_config.number_offset);
	bpf_get_current_comm(event->command, sizeof(event->command));
	bpf_ringbuf_submit(event, 0);
}

/*
 * The programs of 32 bits that a 64-bit kernel runs leave nothing to be said in the
 * upper half of a register. Others do: a negative int may come with its upper half
 * empty, as compilers set it, or full of ones.
 */
static __always_inline int is_met(const volatile struct fl_condition *condition, __u64 value,
				  enum fl_entry entry)
{
	__s64 wanted = condition->value, is;

	if (entry == ENTRY_32)
		value = (__u32)value;
	if (!(value >> 32) && (wanted < 0 || (!wanted && condition->comparison == IS_LESS)))
		is = (__s32)value;
	else
		is = value;
	switch (condition->comparison) {
	case IS_EQUAL:
		return is == wanted;
	case IS_NOT_EQUAL:
		return is != wanted;
	case IS_LESS:
		return is < wanted;
	case IS_GREATER:
		return is > wanted;
	case HAS_BITS:
		return (is & wanted) == wanted;
	default:
		return 0;
	}
}

static __always_inline int all_met(const void *registers, enum fl_entry entry)
{
	const volatile struct fl_call_config *config = &fl_call_config;

	for (__u32 i = 0; i < CONDITIONS_MAX; i++) {
		__u64 value;

		if (i == config->conditions_used)
			break;
		if (bpf_probe_read_kernel(&value, sizeof(value),
					  registers + config->conditions[i].offset[entry]))
			return 0;
		if (!is_met(&config->conditions[i], value, entry))
			return 0;
	}
	return 1;
}

/* paths are those of the call's arguments that are paths. */
static __always_inline int is_meant(const void *registers, enum fl_entry entry, __u32 paths)
{
	enum fl_path match;

	if (!all_met(registers, entry))
		return 0;
	if (!fl_path_config.used)
		return 1;
	match = match_paths(registers, entry, paths);
	if (match == UNKNOWN)
		count(chosen);
	return match == MATCHES;
}
