/* SPDX-License-Identifier: GPL-2.0-only */
/* How long a packet is that comes in. */
#pragma once

#include "../include/packet.h"

enum {
	IPV4_LENGTH = 2,
	IPV6_PAYLOAD = 4,
	IPV6_HEADER = 40,
};

/* From the network header: skb->len counts the link's too, and padding. */
static __always_inline __u32 network_length(struct __sk_buff *skb,
					    const struct fl_packet *packet)
{
	__u32 offset = packet->family == 4 ? IPV4_LENGTH : IPV6_PAYLOAD;
	__be16 length;

	/* 0: more than 64 KB (jumbograms). */
	if (load_net(skb, offset, &length, sizeof(length)) || !length)
		return skb->len;
	return bpf_ntohs(length) + (packet->family == 4 ? 0 : IPV6_HEADER);
}
