//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs at the function of a system call that answer in its place. Go loads one
 * for each function.
 *
 * The kernel does not call the function when a program of its trampoline returns
 * something else than 0 (fmod_ret), or a kprobe overrides its result.
 */
#include "../include/hooks.h"
#include "call.h"

char LICENSE[] SEC("license") = "GPL";

/*
 * They return a long: the process would take an int, which the kernel does not
 * extend, for a large positive number, and not for an error.
 */
static __always_inline long modify(const __u64 *arguments, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);
	long result;

	if (!start)
		return 0;
	result = decide((const void *)arguments[0], entry, fl_path_arguments, start, now);
	if (result)
		count(hit);
	return result;
}

SEC("fmod_ret/native")
long fl_modify(const __u64 *arguments)
{
	return modify(arguments, ENTRY_NATIVE);
}

SEC("fmod_ret/compat")
long fl_modify_32(const __u64 *arguments)
{
	return modify(arguments, ENTRY_32);
}

static __always_inline long decide_at(struct pt_regs *context, enum fl_entry entry,
				      __u64 start, __u64 now)
{
	const void *registers = load_pointer((void *)context + fl_parameters.offset[0]);

	return decide(registers, entry, fl_path_arguments, start, now);
}

static __always_inline int leave_decision(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);

	if (!start)
		return 0;
	forget_verdict();
	leave_verdict(decide_at(context, entry, start, now));
	return 0;
}

SEC("kprobe/native")
int fl_decide(struct pt_regs *context)
{
	return leave_decision(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_decide_32(struct pt_regs *context)
{
	return leave_decision(context, ENTRY_32);
}

/* Without a trampoline: a kprobe that overrides the result. */
static __always_inline int override(struct pt_regs *context, enum fl_entry entry)
{
	__u64 now, start = concerned(&now);
	long result;

	if (!start)
		return 0;
	result = decide_at(context, entry, start, now);
	if (result) {
		count(hit);
		bpf_override_return(context, result);
	}
	return 0;
}

SEC("kprobe/native")
int fl_override(struct pt_regs *context)
{
	return override(context, ENTRY_NATIVE);
}

SEC("kprobe/compat")
int fl_override_32(struct pt_regs *context)
{
	return override(context, ENTRY_32);
}

/*
 * Where the kernel lets nobody answer a call, its security modules may be asked while it
 * is carried out: at a hook, of which Go knows by which calls it is asked once.
 */

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

static __always_inline int decide_asked(void)
{
	const volatile struct fl_call_config *config = &fl_call_config;
	struct fl_asking key = { .hook = fl_hook.operation };
	__u64 now, start = concerned(&now);
	const void *registers, *task;
	__u8 *paths;

	if (!start)
		return 0;
	task = (const void *)bpf_get_current_task();
	if (load_half(task + config->compat_offset) >> config->compat_bit & 1)
		return 0;
	registers = registers_of_task();
	if (config->mode_offset && (load_half(registers + config->mode_offset) & 3) != 3)
		return 0;
	key.number = load_half(registers + config->number_offset);
	paths = bpf_map_lookup_elem(&fl_askings, &key);
	if (!paths)
		return 0;
	return negative(-decide(registers, ENTRY_NATIVE, *paths, start, now));
}

AT_HOOK(asked, decide_asked())
