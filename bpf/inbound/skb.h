/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The context of the tc programs as far as these use it: what bpf/include
 * knows of it, and what comes behind. The verifier looks at offsets only.
 */
#pragma once

#include "../include/abi.h"

struct fl_skb {
	struct __sk_buff first;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys __attribute__((aligned(8)));
	__u64 tstamp;
};
_Static_assert(__builtin_offsetof(struct fl_skb, tc_index) == 44, "linux/bpf.h");
_Static_assert(__builtin_offsetof(struct fl_skb, tstamp) == 152, "linux/bpf.h");

enum {
	/* linux/if_packet.h: not for this interface, seen all the same. */
	PACKET_OTHERHOST = 3,
	/* Of bpf_skb_set_tstamp, 5.18 and later. */
	TSTAMP_DELIVERY_MONO = 1,
};
