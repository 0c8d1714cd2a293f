//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs at the cgroup's own packet hooks. They see each packet of the
 * target's sockets once, before it is cut into fragments and after it is put
 * together, in whatever network namespace and over whatever interface, and
 * nobody else's.
 *
 * On egress they only decide: a packet that the hook itself drops is reported
 * to its sender (EPERM, or a local drop that TCP repairs in milliseconds), and
 * none can be held back here. The packet gets a mark, and the program of bpf/tc
 * does it on its way out, as a network would. The mark is on no packet that
 * leaves the machine.
 */
#include "../include/abi.h"
#include "../include/choose.h"
#include "../include/corrupt.h"
#include "../include/decision.h"
#include "../include/events.h"
#include "../include/lease.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

/* What the hooks make of a program's result. */
enum verdict {
	DROP = 0,
	PASS = 1,
	/* Egress, since 5.3: dropped, and the sender is not told EPERM. */
	DROP_QUIETLY = 2,
};

/* Decides about one packet, and counts it. */
static __always_inline int chosen(struct __sk_buff *skb, enum fl_way way, __u32 effect,
				  struct choice *choice)
{
	const volatile struct fl_config *config = &fl_config;
	struct fl_payload payload;
	enum fl_throw thrown;
	__u64 start, now = 0;
	__u32 bytes = 0;

	choice->hold = 0;
	choice->after = 0;
	choice->mark = skb->mark;
	start = lease_start(&now);
	if (!start)
		return 0;
	if (parse_packet(skb, &choice->packet))
		return 0;
	if (!filter_matches(&config->filter, &choice->packet, way))
		return 0;
	if (effect & EFFECT_CORRUPT &&
	    !find_payload(skb, &choice->packet, skb->len, &payload))
		return 0;
	if (!pulse_is_on(&config->dice, now - start))
		return 0;
	count(matched);
	if (effect & EFFECT_SHAPE)
		bytes = bytes_on_the_wire(skb, &choice->packet, skb->len);
	thrown = throw_and_time(bytes, way, now - start, now, effect, choice);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_HIT_AND_SAMPLE)
		sample_packet(&choice->packet, bpf_skb_cgroup_id(skb), skb->len, now, way);
	return !config->observe;
}

/*
 * Which bit of a packet is flipped, as in fl_decision.damage; at the cgroup's
 * hook, where a packet begins with its network header. Parsed anew: the few that
 * are hit pay for it, and the verifier looks at it once, not for each way in
 * which they were parsed before.
 */
__global __u32 choose_bit(struct __sk_buff *skb, __u64 seed, __u64 ordinal)
{
	struct fl_payload payload;
	struct fl_packet packet;
	__u32 bit;
	__u8 byte;

	if (parse_packet(skb, &packet) || !find_payload(skb, &packet, skb->len, &payload))
		return NO_BIT;
	bit = payload.start * 8 + bit_at(seed, ordinal, payload.length);
	/* The payload is seldom where load_net reads. */
	if (bpf_skb_load_bytes(skb, packet.transport + bit / 8, &byte, 1))
		return NO_BIT;
	return byte >> (bit & 7) & 1 ? bit | DAMAGE_WAS_SET : bit;
}

static __always_inline int mark_egress(struct __sk_buff *skb, __u32 effect)
{
	const volatile struct fl_config *config = &fl_config;
	struct fl_decision *before = decision_of(skb->mark, config->run);
	struct choice choice;
	__u32 bit = 0;

	/* What another fault of the run lets vanish never comes here. */
	if (before && before->effects & EFFECT_LOSE)
		return PASS;
	if (!chosen(skb, SENT, effect, &choice))
		return PASS;
	if (effect & EFFECT_CORRUPT) {
		bit = choose_bit(skb, config->dice.seed, choice.ordinal);
		if (bit == NO_BIT)
			return PASS;
	}
	decide(skb, config->run, config->fault, choice.ordinal, choice.effect,
	       choice.hold, choice.after);
	if (effect & EFFECT_CORRUPT)
		decide_damage(skb, config->run, config->fault, bit, config->wrong);
	return PASS;
}

SEC("cgroup_skb/egress")
int fl_lose_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_LOSE);
}

SEC("cgroup_skb/egress")
int fl_hold_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_HOLD);
}

SEC("cgroup_skb/egress")
int fl_shape_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_SHAPE);
}

SEC("cgroup_skb/egress")
int fl_dup_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_DUPLICATE);
}

/*
 * Where a qdisc of ours does it, and no program at the interface. The qdisc prio
 * needs no filter for a packet whose priority is one of its classes.
 */
SEC("cgroup_skb/egress")
int fl_steer_egress(struct __sk_buff *skb)
{
	const volatile struct fl_config *config = &fl_config;
	struct fl_decision *before = decision_of(skb->mark, config->run);
	struct choice choice;

	if (before && before->effects & EFFECT_LOSE)
		return PASS;
	if (!chosen(skb, SENT, 0, &choice))
		return PASS;
	skb->priority = config->class;
	count(hit);
	return PASS;
}

SEC("cgroup_skb/egress")
int fl_fall_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_REORDER);
}

SEC("cgroup_skb/egress")
int fl_flip_egress(struct __sk_buff *skb)
{
	return mark_egress(skb, EFFECT_CORRUPT);
}

SEC("cgroup_skb/egress")
int fl_drop_egress(struct __sk_buff *skb)
{
	struct choice choice;

	if (!chosen(skb, SENT, EFFECT_LOSE, &choice))
		return PASS;
	count(hit);
	/* TCP takes EPERM as silence and backs off as it should; with the
	 * quiet drop it would know and try again at once. Others must not see
	 * EPERM from their send calls. */
	return choice.packet.protocol == IPPROTO_TCP ? DROP : DROP_QUIETLY;
}

SEC("cgroup_skb/ingress")
int fl_drop_ingress(struct __sk_buff *skb)
{
	struct choice choice;

	if (!chosen(skb, RECEIVED, EFFECT_LOSE, &choice))
		return PASS;
	count(hit);
	return DROP;
}
