/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The part of the kernel's stable ABI that the programs use. It is written
 * down here, and not taken from the machine's headers, so that the objects are
 * the same wherever they are built.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_CGROUP_ARRAY = 8,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1 << 10,
};

/*
 * A function that the verifier looks at once, by itself, and not for each way in
 * which a program gets to it. It knows nothing there of what the arguments can
 * be, which are the context and numbers.
 */
#define __global __attribute__((noinline))

/* Flags of bpf_skb_store_bytes. */
enum {
	BPF_F_RECOMPUTE_CSUM = 1 << 0,
};

/* What bpf_csum_level does. */
enum {
	BPF_CSUM_LEVEL_RESET = 3,
};

/* Flags of bpf_l4_csum_replace, whose lowest bits are the size of the field. */
enum {
	BPF_F_MARK_MANGLED_0 = 1 << 5,
};

/* Modes and flags of bpf_skb_adjust_room. */
enum {
	BPF_ADJ_ROOM_MAC = 1,
	BPF_F_ADJ_ROOM_FIXED_GSO = 1 << 0,
};

/* Where an offset of bpf_skb_load_bytes_relative counts from. */
enum bpf_hdr_start_off {
	BPF_HDR_START_MAC = 0,
	BPF_HDR_START_NET = 1,
};

struct bpf_spin_lock {
	__u32 val;
};

/*
 * The context of every program that sees a packet, up to the last field that
 * is used here. The verifier rewrites the accesses by offset.
 */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
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
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};
_Static_assert(__builtin_offsetof(struct __sk_buff, gso_size) == 176, "linux/bpf.h");
_Static_assert(__builtin_offsetof(struct __sk_buff, tstamp) == 152, "linux/bpf.h");

/* Results of a program at a tc hook; TCX and cls_bpf agree on these. */
enum tc_action {
	TC_ACT_UNSPEC = -1,
	TC_ACT_OK = 0,
	TC_ACT_SHOT = 2,
	TC_ACT_STOLEN = 4,
	TC_ACT_REDIRECT = 7,
};

/* The clocks of bpf_skb_set_tstamp. */
enum {
	BPF_SKB_TSTAMP_DELIVERY_MONO = 1,
};

enum {
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
};

enum ip_protocol {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ICMP = 1,
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_AH = 51,
	IPPROTO_ICMPV6 = 58,
	IPPROTO_DSTOPTS = 60,
};
