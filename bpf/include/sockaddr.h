/* SPDX-License-Identifier: GPL-2.0-only */
/* What programs at the socket hooks of a cgroup are given (linux/bpf.h). */
#pragma once

#include "packet.h"
#include "sock.h"

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_MPTCP = 262,
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port; /* network byte order */
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	struct bpf_sock *sk __attribute__((aligned(8)));
};
_Static_assert(__builtin_offsetof(struct bpf_sock_addr, sk) == 64, "linux/bpf.h");

enum cgroup_verdict {
	REFUSE = 0,
	ALLOW = 1,
};

/* MPTCP is TCP to all that look at it from outside. */
static __always_inline __u8 protocol_of(__u32 protocol)
{
	return protocol == IPPROTO_MPTCP ? IPPROTO_TCP : protocol;
}

/* As in fl_packet; 0 for another family. */
static __always_inline __u8 version_of(__u32 family)
{
	return family == AF_INET ? 4 : family == AF_INET6 ? 6 : 0;
}

/* The address that a call gives. */
static __always_inline void given_address(const struct bpf_sock_addr *context, int ipv6,
					  struct fl_address *address)
{
	__u32 *words = (__u32 *)address->bytes;

	if (!ipv6) {
		map_ipv4(address, context->user_ip4);
		return;
	}
	words[0] = context->user_ip6[0];
	words[1] = context->user_ip6[1];
	words[2] = context->user_ip6[2];
	words[3] = context->user_ip6[3];
}
