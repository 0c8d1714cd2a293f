/* SPDX-License-Identifier: GPL-2.0-only */
/* A socket as the kernel shows it to programs (linux/bpf.h), up to what is used. */
#pragma once

#include "abi.h"

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host byte order */
	__u32 dst_port; /* network byte order, in the first two bytes */
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
};
_Static_assert(__builtin_offsetof(struct bpf_sock, state) == 72, "linux/bpf.h");
