/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading the kernel's memory, at offsets that Go knows. What can't be read is 0. */
#pragma once

#include "abi.h"
#include <bpf/bpf_helpers.h>

static __always_inline __u64 load_word(const void *at)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

static __always_inline __u32 load_half(const void *at)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

static __always_inline __u16 load_short(const void *at)
{
	__u16 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

static __always_inline const void *load_pointer(const void *at)
{
	return (const void *)load_word(at);
}
