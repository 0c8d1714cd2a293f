//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The programs at the egress of an interface. They do what bpf/cgroupskb has
 * decided about a packet and left under its mark. All other packets cost one
 * comparison.
 *
 * A packet that is held must not keep its socket: TCP lets only two or so of a
 * socket's packets wait below it (TCP small queues), and gets a thousandth of
 * its throughput. A copy that the kernel sends again has none. So the packet is
 * replaced by a copy, which comes by here once more, gets back the mark that it
 * had and the time when it may leave, and waits in the fq qdisc.
 */
#include "../include/abi.h"
#include "../include/damage.h"
#include "../include/decision.h"
#include "../include/lease.h"
#include "../include/packet.h"
#include "../include/targets.h"

char LICENSE[] SEC("license") = "GPL";

struct fl_tc_config {
	/* As in struct fl_config. */
	__u32 run;
	__u32 fault;
	/* Bit n: some target is at level n of the hierarchy. */
	__u32 levels;
	/* The kernel has bpf_skb_set_tstamp (5.18). */
	__u32 clocks;
};
_Static_assert(sizeof(struct fl_tc_config) == 16, "known to Go");

volatile const struct fl_tc_config fl_tc_config;

/* What becomes of a packet. */
enum fate {
	GOES_ON,
	/* It goes on, and there was no memory to hit it. */
	SPARED,
	VANISHES,
	/* The queue was full. */
	DROPPED,
};

/*
 * A stamp that is further away than this, ns, is of another clock (SO_TXTIME
 * with CLOCK_TAI) or means nothing. It stays below fq's usual horizon of 10 s,
 * beyond which the packet would be lost, or wait that long.
 */
#define LATER_MAX 5000000000ULL

/* Turns the hash of a flow into that of another one. */
enum { OTHER_FLOW = 0x3b9aca07 };

/* What sending says of a packet in whose place another one was dropped. */
enum { NET_XMIT_CN = 2 };

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

/*
 * Says when the packet may leave, in the clock of fq. A packet with a time of its
 * sender's says in which clock that is, and the copy does too; fq of Linux 7 goes
 * by it.
 */
static __always_inline void stamp(struct __sk_buff *skb, __u64 departure)
{
	skb->tstamp = departure;
	if (fl_tc_config.clocks)
		bpf_skb_set_tstamp(skb, departure, BPF_SKB_TSTAMP_DELIVERY_MONO);
}

/* Sends a copy without a socket, which comes by here too. */
static __always_inline long send_copy(struct __sk_buff *skb)
{
	long error;

	skb->mark |= MARK_COPY;
	error = bpf_clone_redirect(skb, skb->ifindex, 0);
	/* Others have lost a packet for it. */
	return error == NET_XMIT_CN ? 0 : error;
}

/* A copy, or two, in the packet's place. */
static __always_inline enum fate replace(struct __sk_buff *skb,
					 struct fl_decision *decision)
{
	long error = send_copy(skb);

	if (error < 0) {
		skb->mark = decision->mark;
		return SPARED;
	}
	if (decision->effects & EFFECT_DUPLICATE)
		send_copy(skb);
	return error ? DROPPED : VANISHES;
}

/* What a large segment is cut to. */
static __noinline enum fl_hit cut(struct __sk_buff *skb, struct fl_decision *decision)
{
	if (find_place(skb, skb->mark & MARK_KEY))
		return NOT_HIT;
	if (decision->effects & EFFECT_CUT_HIT)
		return damage_wrong(skb, &decision->place, decision->damage);
	return cut_rest(skb, &decision->place);
}

/* The packet goes on itself, with its socket. */
static __always_inline enum fate let_go(struct __sk_buff *skb,
					struct fl_decision *decision, int damages)
{
	enum fate fate = GOES_ON;

	if (decision->effects & EFFECT_DUPLICATE && send_copy(skb) < 0)
		fate = SPARED;
	if (damages && decision->effects & EFFECT_CUT_REST && cut(skb, decision) == RUINED)
		fate = DROPPED;
	skb->mark = decision->mark;
	if (decision->effects & EFFECT_SHAPE)
		stamp(skb, decision->departure);
	return fate;
}

/* The copy comes by. */
static __always_inline enum fate send_off(struct __sk_buff *skb,
					  struct fl_decision *decision, int damages)
{
	__u32 effects = decision->effects;

	/* No copy has a socket: somebody else's has set this mark. */
	if (bpf_skb_cgroup_id(skb))
		return GOES_ON;
	if (damages && effects & (EFFECT_CUT_HIT | EFFECT_CUT_REST)) {
		enum fl_hit hit = cut(skb, decision);

		if (hit == RUINED || (hit != HIT && effects & EFFECT_CUT_HIT))
			return DROPPED;
		/* Tells who waits for it. */
		decision->effects &= ~EFFECT_CUT_HIT;
	}
	skb->mark = decision->mark;
	if (effects & (EFFECT_HOLD | EFFECT_SHAPE | EFFECT_REORDER))
		stamp(skb, decision->departure);
	/* fq lets nothing of a flow pass what waits of it; the others of a socket
	 * that is not connected are of the flow of their hash too. */
	if (effects & EFFECT_REORDER)
		bpf_set_hash(skb, bpf_get_hash_recalc(skb) ^ OTHER_FLOW);
	decision->effects |= HELD;
	return GOES_ON;
}

/*
 * When the packet would leave: TCP and SO_TXTIME may want it later than now, and
 * one that falls back leaves after others.
 */
static __always_inline __u64 leaves_at(struct __sk_buff *skb, __u64 after)
{
	__u64 now = bpf_ktime_get_ns(), stamp = skb->tstamp;

	if (stamp > now && stamp - now <= LATER_MAX)
		now = stamp;
	return after > now ? after : now;
}

/* Sends the part of a large segment that is hit, alone. */
static __always_inline long send_hit(struct __sk_buff *skb, struct fl_decision *decision)
{
	long error;

	decision->effects |= EFFECT_CUT_HIT;
	error = send_copy(skb);
	if (decision->effects & EFFECT_CUT_HIT)
		error = -1;
	decision->effects &= ~EFFECT_CUT_HIT;
	return error;
}

/*
 * Damages the packet itself, so that whatever copies it has are damaged too. A
 * large segment that others cut up has its checksums made by them, and none of
 * them wrong: its first part is sent before it.
 */
static __noinline enum fl_hit corrupt(struct __sk_buff *skb, struct fl_decision *decision)
{
	__u32 damage = decision->damage;

	if (find_place(skb, skb->mark & MARK_KEY))
		return NOT_HIT;
	if (!(damage & DAMAGE_WRONG))
		return damage_right(skb, &decision->place, damage);
	if (!skb->gso_size)
		return damage_wrong(skb, &decision->place, damage);
	/* The parts of UDP have to come from its own socket (UDP_SEGMENT). */
	if (decision->place.protocol != IPPROTO_TCP || send_hit(skb, decision))
		return NOT_HIT;
	if (decision->effects & EFFECT_DUPLICATE)
		send_hit(skb, decision);
	decision->effects |= EFFECT_CUT_REST;
	return HIT;
}

/* The packet was to be damaged, and is not: the others have hit it. */
static __always_inline void not_damaged(struct fl_decision *decision, __u32 *faults)
{
	if (decision->effects & EFFECT_CORRUPT)
		*faults &= ~(1U << (decision->damage >> DAMAGE_FAULT_SHIFT & (FAULTS_MAX - 1)));
}

/* Does what was decided about a packet of the target. */
static __always_inline enum fate carry_out(struct __sk_buff *skb,
					   struct fl_decision *decision, int damages,
					   __u32 *faults)
{
	if (decision->effects & EFFECT_LOSE) {
		not_damaged(decision, faults);
		return VANISHES;
	}
	decision->departure = decision->hold + leaves_at(skb, decision->after);
	if (damages && decision->effects & EFFECT_CORRUPT) {
		enum fl_hit hit = corrupt(skb, decision);

		if (hit == RUINED)
			return DROPPED;
		if (hit == NOT_HIT)
			not_damaged(decision, faults);
	}
	if (decision->effects & (EFFECT_HOLD | EFFECT_REORDER))
		return replace(skb, decision);
	return let_go(skb, decision, damages);
}

/*
 * damages is a constant: only the programs of faults that damage have the code for
 * it, which is large, and what is to be damaged is theirs alone.
 */
static __always_inline enum fate fate_of(struct __sk_buff *skb, int damages)
{
	const volatile struct fl_tc_config *config = &fl_tc_config;
	struct fl_decision *decision = decision_of(skb->mark, config->run);
	enum fate fate;
	__u32 faults;
	__u64 now;

	if (!decision)
		return GOES_ON;
	if (!damages && decision->effects & EFFECT_CORRUPT)
		return GOES_ON;
	if (skb->mark & MARK_COPY)
		return send_off(skb, decision, damages);
	if (!of_target(skb))
		return GOES_ON;
	faults = decision->faults;
	if (!lease_start(&now)) {
		/* The program of another fault may come after this one. */
		if (!(faults & ~(1U << (config->fault & (FAULTS_MAX - 1)))))
			skb->mark = decision->mark;
		return GOES_ON;
	}
	fate = carry_out(skb, decision, damages, &faults);
	/* A datagram was chosen as a whole, and leaves in pieces: it is
	 * counted with the first. */
	if ((fate == GOES_ON || fate == VANISHES) && !is_later_fragment(skb))
		count_done(faults);
	return fate;
}

/*
 * No interface has index 0: the kernel frees the packet and reports success.
 * TCX knows no STOLEN, and DROP is told to the sender.
 */
static __always_inline int tcx_result(enum fate fate)
{
	return fate >= VANISHES ? bpf_redirect(0, 0) : TC_ACT_UNSPEC;
}

static __always_inline int cls_result(enum fate fate)
{
	return fate >= VANISHES ? TC_ACT_STOLEN : TC_ACT_UNSPEC;
}

SEC("tcx/egress")
int fl_tcx_egress(struct __sk_buff *skb)
{
	return tcx_result(fate_of(skb, 0));
}

SEC("tc")
int fl_cls_egress(struct __sk_buff *skb)
{
	return cls_result(fate_of(skb, 0));
}

/* The same under another name, by which faults that need the fq qdisc are known. */
SEC("tcx/egress")
int fl_tcx_hold(struct __sk_buff *skb)
{
	return tcx_result(fate_of(skb, 0));
}

SEC("tc")
int fl_cls_hold(struct __sk_buff *skb)
{
	return cls_result(fate_of(skb, 0));
}

/* The same for faults that damage packets. */
SEC("tcx/egress")
int fl_tcx_damage(struct __sk_buff *skb)
{
	return tcx_result(fate_of(skb, 1));
}

SEC("tc")
int fl_cls_damage(struct __sk_buff *skb)
{
	return cls_result(fate_of(skb, 1));
}
