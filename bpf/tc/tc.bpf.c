//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The programs at the egress of an interface. They let the packets vanish that
 * bpf/cgroupskb has marked, in a way that no sender is told of. All other
 * packets cost one comparison.
 */
#include "../include/abi.h"
#include "../include/lease.h"
#include "../include/packet.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

enum {
	/* Deepest cgroup below the root of the hierarchy that can be a target. */
	LEVELS_MAX = 24,
	TARGETS_MAX = 4096,
};

struct fl_tc_config {
	__u32 mark;
	/* Bit n: some target is at level n of the hierarchy. */
	__u32 levels;
};
_Static_assert(sizeof(struct fl_tc_config) == 8, "known to Go");

volatile const struct fl_tc_config fl_tc_config;

/* The cgroups of the target, by id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TARGETS_MAX);
	__type(key, __u64);
	__type(value, __u8);
} fl_targets SEC(".maps");

/* Marks can be set by others: the packet must be the target's too. */
static __always_inline int of_target(struct __sk_buff *skb)
{
	for (int level = 1; level < LEVELS_MAX; level++) {
		__u64 id;

		if (!(fl_tc_config.levels >> level & 1))
			continue;
		id = bpf_skb_ancestor_cgroup_id(skb, level);
		if (id && bpf_map_lookup_elem(&fl_targets, &id))
			return 1;
	}
	return 0;
}

static __always_inline int vanishes(struct __sk_buff *skb)
{
	struct fl_packet packet;
	__u64 now;

	if (skb->mark != fl_tc_config.mark)
		return 0;
	if (!lease_start(&now))
		return 0;
	if (!of_target(skb))
		return 0;
	/* A datagram was chosen as a whole, and leaves in pieces: it is
	 * counted with the first. */
	if (parse_packet(skb, &packet) || !packet.later_fragment)
		count(hit);
	return 1;
}

SEC("tcx/egress")
int fl_tcx_egress(struct __sk_buff *skb)
{
	/* No interface has index 0: the kernel frees the packet and reports
	 * success. TCX knows no STOLEN, and DROP is told to the sender. */
	if (vanishes(skb))
		return bpf_redirect(0, 0);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int fl_cls_egress(struct __sk_buff *skb)
{
	if (vanishes(skb))
		return TC_ACT_STOLEN;
	return TC_ACT_UNSPEC;
}
