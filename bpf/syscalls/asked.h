/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the kernel lets nobody answer a call, its security modules may be asked while it
 * is carried out: at a hook, of which Go knows by which calls it is asked once.
 */

#pragma once

#include "../include/hooks.h"
#include "call.h"

/*
 * Which calls are meant at which hook: fl_hook.operation, then the number; and which of
 * their arguments are paths.
 */
struct fl_asking {
	__u32 hook;
	__u32 number;
};
_Static_assert(sizeof(struct fl_asking) == 8, "known to Go");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct fl_asking);
	__type(value, __u8);
} fl_askings SEC(".maps");

#ifdef FL_TOKEN

/* Before 5.15 the registers are found where the kernel puts them (task_pt_regs). */
enum {
	STACK_SIZE = 16384,
	REGISTERS_SIZE = 168,
};

static __always_inline const void *registers_of_task(void)
{
	const void *task = (const void *)bpf_get_current_task();

	return load_pointer(task + fl_call_config.stack_offset) + STACK_SIZE - REGISTERS_SIZE;
}

#else

static __always_inline const void *registers_of_task(void)
{
	return (const void *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

#endif

/* Whether it is one of those calls that asks, and by which registers and paths. */
static __always_inline int asked_by_call(const void **registers, __u32 *paths)
{
	const volatile struct fl_call_config *config = &fl_call_config;
	struct fl_asking key = { .hook = fl_hook.operation };
	const void *task = (const void *)bpf_get_current_task();
	__u8 *found;

	if (load_half(task + config->compat_offset) >> config->compat_bit & 1)
		return 0;
	*registers = registers_of_task();
	if (config->mode_offset && (load_half(*registers + config->mode_offset) & 3) != 3)
		return 0;
	key.number = load_half(*registers + config->number_offset);
	found = bpf_map_lookup_elem(&fl_askings, &key);
	if (!found)
		return 0;
	*paths = *found;
	return 1;
}
