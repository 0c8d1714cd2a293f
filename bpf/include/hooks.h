/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Programs at the hooks of the security modules, by which the kernel asks whether
 * something may be done: as a module of their own (lsm), in the place of the function
 * that asks all of them (fmod_ret on security_*), or by a verdict that is delivered
 * there (kprobe). All have the same arguments and want a negative errno. Go loads one
 * for each hook, by what its arguments are.
 *
 * With FL_PROBES there are the kprobes alone.
 */
#pragma once

#include "verdict.h"

/* What a hook is for; Go sets it in each program. */
struct fl_hook {
	/* v1.FileOperation, v1.SocketError_Operation. */
	__u32 operation;
	/* Bits of the second argument, one of which has to be set; 0: any. */
	__u32 mask;
	/* The same of another operation at the same hook; mask 0: there is none. */
	__u32 other_operation;
	__u32 other_mask;
};
_Static_assert(sizeof(struct fl_hook) == 16, "known to Go");

volatile const struct fl_hook fl_hook;

/* The verifier wants to see that it is from -4095 to 0. */
static __always_inline int negative(__u32 error)
{
	__u64 result = error & ERRNO_MAX;

	asm volatile("r0 = 0\n\tr0 -= %0\n\t%0 = r0" : "+r"(result) : : "r0");
	return (int)result;
}

/* An answer that the kernel takes from here. */
static __always_inline int answered(int result)
{
	if (result)
		count(hit);
	return result;
}

#ifdef FL_PROBES

#define AT_FUNCTION(name, body) AT_PROBE(name, body)
#define AT_HOOK(name, body) AT_FUNCTION(name, body)

#else

#define AT_FUNCTION(name, body)                    \
	SEC("fmod_ret/" #name)                     \
	long fl_mod_##name(const __u64 *arguments) \
	{                                          \
		return answered(body);             \
	}                                          \
	AT_PROBE(name, body)

#define AT_HOOK(name, body)                       \
	SEC("lsm/" #name)                         \
	int fl_lsm_##name(const __u64 *arguments) \
	{                                         \
		return answered(body);            \
	}                                         \
	AT_FUNCTION(name, body)

#endif

#define AT_PROBE(name, body)                         \
	SEC("kprobe/" #name)                         \
	int fl_probe_##name(struct pt_regs *context) \
	{                                            \
		__u64 arguments[PARAMETERS], now;    \
                                                     \
		if (!concerned(&now))                \
			return 0;                    \
		forget_verdict();                    \
		read_parameters(context, arguments); \
		leave_verdict(body);                 \
		return 0;                            \
	}
