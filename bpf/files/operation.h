/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a fault decides about an operation on a file, and the programs where the kernel
 * asks whether it may be done. Who includes it says before what a verdict is:
 * fl_verdict_t, decide_verdict and error_of.
 */
#pragma once

#include "../include/hooks.h"
#include "path.h"

enum {
	COMMAND_SIZE = 16, /* TASK_COMM_LEN */
	NAME_SIZE = 64,
};

struct fl_file_config {
	struct fl_layout layout;
	struct fl_pattern pattern;
};
_Static_assert(sizeof(struct fl_file_config) == 80 + 40, "known to Go");

volatile const struct fl_file_config fl_file_config;

/* A sample of the calls that were hit. */
struct fl_file_event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u64 cgroup; /* of the process */
	__u64 inode;
	__u32 pid;
	__u32 operation;
	__u32 error; /* errno; 0: it was only observed */
	char command[COMMAND_SIZE];
	/* Of the directory entry; a longer one is cut. */
	char name[NAME_SIZE];
	__u32 pad;
};
_Static_assert(sizeof(struct fl_file_event) == 120, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} fl_events SEC(".maps");

static __always_inline void sample_file(const void *dentry, __u32 operation, __u32 error,
					__u64 now)
{
	const volatile struct fl_layout *layout = &fl_file_config.layout;
	struct fl_file_event *event = bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);
	const void *inode;

	if (!event)
		return;
	inode = inode_of(layout, dentry);
	event->time = now;
	event->cgroup = bpf_get_current_cgroup_id();
	event->inode = inode ? load_word(inode + layout->inode_number) : 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->operation = operation;
	event->error = error;
	event->pad = 0;
	bpf_get_current_comm(event->command, sizeof(event->command));
	event->name[0] = 0;
	bpf_probe_read_kernel_str(event->name, sizeof(event->name),
				  load_pointer(dentry + layout->dentry_name));
	bpf_ringbuf_submit(event, 0);
}

/* Decides about one of two files, the second of which may be 0. */
static __always_inline fl_verdict_t decide_operation(const void *dentry, const void *other,
						     __u32 operation)
{
	const volatile struct fl_file_config *config = &fl_file_config;
	__u64 now, start = concerned(&now);
	enum fl_match match;
	fl_verdict_t verdict;
	int sampled;

	if (!start)
		return 0;
	match = match_path(&config->layout, &config->pattern, dentry, other);
	if (match == ELSEWHERE)
		return 0;
	if (match == TOO_LONG) {
		count(chosen);
		return 0;
	}
	verdict = decide_verdict(start, now, &sampled);
	if (sampled)
		sample_file(dentry, operation, error_of(verdict), now);
	return verdict;
}

static __always_inline fl_verdict_t decide(const void *dentry, const void *other)
{
	return decide_operation(dentry, other, fl_hook.operation);
}

/* (struct file *, ...); there is none where memory of no file is mapped. */
static __always_inline fl_verdict_t decide_file(const __u64 *arguments)
{
	const void *file = (const void *)arguments[0];

	if (!file)
		return 0;
	return decide(load_pointer(file + fl_file_config.layout.file_dentry), 0);
}

/* (struct file *, int mask) */
static __always_inline fl_verdict_t decide_access(const __u64 *arguments)
{
	const void *file = (const void *)arguments[0];
	__u32 operation = fl_hook.operation;

	if (arguments[1] & fl_hook.other_mask)
		operation = fl_hook.other_operation;
	else if (!(arguments[1] & fl_hook.mask))
		return 0;
	return decide_operation(load_pointer(file + fl_file_config.layout.file_dentry), 0,
				operation);
}

/* (const struct path *, ...) */
static __always_inline fl_verdict_t decide_path(const __u64 *arguments)
{
	const void *path = (const void *)arguments[0];

	return decide(load_pointer(path + fl_file_config.layout.path_dentry), 0);
}

/*
 * A system call whose first argument is a descriptor, at the call's function: for what
 * no hook is asked.
 */
static __always_inline fl_verdict_t decide_descriptor(const __u64 *arguments, int entry)
{
	const volatile struct fl_layout *layout = &fl_file_config.layout;
	const void *registers = (const void *)arguments[0], *table, *file;
	__u32 descriptor = load_half(registers + layout->descriptor[entry]);

	table = load_pointer((const void *)bpf_get_current_task() + layout->task_files);
	table = load_pointer(table + layout->files_table);
	if (descriptor >= load_half(table + layout->table_size))
		return 0;
	file = load_pointer(load_pointer(table + layout->table_files) +
			    (__u64)descriptor * sizeof(file));
	if (!file)
		return 0;
	return decide(load_pointer(file + layout->file_dentry), 0);
}

AT_FUNCTION(descriptor, decide_descriptor(arguments, 0))
AT_FUNCTION(descriptor_32, decide_descriptor(arguments, 1))

AT_HOOK(file, decide_file(arguments))
AT_HOOK(access, decide_access(arguments))
AT_HOOK(path, decide_path(arguments))
/* (struct dentry *) */
AT_HOOK(entry, decide((const void *)arguments[0], 0))
/* (struct inode *dir, struct dentry *, ...) */
AT_HOOK(child, decide((const void *)arguments[1], 0))
/*
 * The second one is read and not taken, so that it is a number and no pointer to the
 * verifier, which lets no bits of a pointer be set.
 *
 * (struct dentry *old, struct inode *dir, struct dentry *new, ...)
 */
AT_HOOK(link, decide((const void *)arguments[0], load_pointer(&arguments[2])))
/* (struct inode *old_dir, struct dentry *old, struct inode *new_dir, struct dentry *new, ...) */
AT_HOOK(rename, decide((const void *)arguments[1], load_pointer(&arguments[3])))
