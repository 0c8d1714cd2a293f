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
#include "../include/corrupt.h"
#include "../include/decision.h"
#include "../include/delay.h"
#include "../include/dice.h"
#include "../include/events.h"
#include "../include/filter.h"
#include "../include/lease.h"
#include "../include/packet.h"
#include "../include/shape.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

struct fl_config {
	struct fl_dice dice;
	struct fl_filter filter;
	/* How long packets are held, and how fast they may leave. */
	struct fl_delay delay;
	struct fl_shape shape;
	/* The marks of the run, of which it is the only one: MARK_RUN. */
	__u32 run;
	/* The fault's number in the run, below FAULTS_MAX. */
	__u32 fault;
	/* Count what would be hit, hit nothing. */
	__u32 observe;
	/* The class of a qdisc to which fl_steer_egress leads packets: its handle
	 * and, from 1 on, its number. */
	__u32 class;
	/* Leave the checksum of a damaged packet as it was. */
	__u32 wrong;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_config) == 208, "known to Go");

volatile const struct fl_config fl_config;

/* What the hooks make of a program's result. */
enum verdict {
	DROP = 0,
	PASS = 1,
	/* Egress, since 5.3: dropped, and the sender is not told EPERM. */
	DROP_QUIETLY = 2,
};

/* What is remembered between two packets, under the lock of the dice. */
struct fl_memory {
	/* The delay before, when delays are correlated. */
	struct fl_delay_state delay;
	struct fl_shape_state shape;
};
_Static_assert(sizeof(struct fl_memory) == 24, "no padding of the compiler's");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_memory);
} fl_memory SEC(".maps");

/* What is known of a packet that was chosen. */
struct choice {
	struct fl_packet packet;
	__u64 ordinal;
	/* How long it waits, ns; only with EFFECT_HOLD and EFFECT_SHAPE. */
	__u64 hold;
};

/*
 * Throws the dice, and says for what they hit how long it waits: under one lock,
 * so that the order of the packets is that of their times. A packet that is only
 * to be shaped and need not wait is not hit.
 */
static __always_inline enum fl_throw throw_and_time(struct __sk_buff *skb, __u64 elapsed,
						    __u64 now, __u32 effect,
						    struct choice *choice)
{
	/* Volatile all the way: the compiler must not take the zeros that stand
	 * here for the values that are set before loading. */
	const volatile struct fl_config *config = &fl_config;
	struct fl_dice_state *state = dice_state();
	const struct fl_delay_table *table = 0;
	struct fl_memory *memory = 0;
	enum fl_throw thrown;
	__u64 monotonic = 0;
	__u32 key = 0, bytes = 0;

	if (!state)
		return THROW_PASS;
	if (effect & (EFFECT_HOLD | EFFECT_SHAPE)) {
		memory = bpf_map_lookup_elem(&fl_memory, &key);
		if (!memory)
			return THROW_PASS;
	}
	if (effect & EFFECT_HOLD) {
		table = delay_table();
		if (!table)
			return THROW_PASS;
	}
	if (effect & EFFECT_SHAPE) {
		bytes = bytes_on_the_wire(skb, &choice->packet);
		monotonic = bpf_ktime_get_ns();
	}
	bpf_spin_lock(&state->lock);
	thrown = throw_dice(&config->dice, state, elapsed, now, &choice->ordinal);
	if (effect & EFFECT_HOLD && thrown != THROW_PASS)
		choice->hold = draw_delay(&config->delay, table, choice->ordinal, &memory->delay);
	if (effect & EFFECT_SHAPE && thrown != THROW_PASS) {
		choice->hold = shape(&config->shape, &memory->shape, monotonic, bytes);
		if (!choice->hold)
			thrown = THROW_PASS;
	}
	bpf_spin_unlock(&state->lock);
	return thrown;
}

/* Decides about one packet, and counts it. */
static __always_inline int chosen(struct __sk_buff *skb, int egress, __u32 effect,
				  struct choice *choice)
{
	const volatile struct fl_config *config = &fl_config;
	struct fl_payload payload;
	enum fl_throw thrown;
	__u64 start, now = 0;

	choice->hold = 0;
	start = lease_start(&now);
	if (!start)
		return 0;
	if (parse_packet(skb, &choice->packet))
		return 0;
	if (!filter_matches(&config->filter, &choice->packet, egress))
		return 0;
	if (effect & EFFECT_CORRUPT &&
	    !find_payload(skb, &choice->packet, &payload))
		return 0;
	if (!pulse_is_on(&config->dice, now - start))
		return 0;
	count(matched);
	thrown = throw_and_time(skb, now - start, now, effect, choice);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_HIT_AND_SAMPLE)
		sample_packet(skb, &choice->packet, now, egress);
	return !config->observe;
}

/*
 * Which bit of a packet is flipped, as in fl_decision.damage; at the cgroup's
 * hook, where a packet begins with its network header. Parsed anew: the few that
 * are hit pay for it, and the verifier need not remember until here how they
 * were parsed before.
 */
static __noinline __u32 choose_bit(struct __sk_buff *skb, __u64 seed, __u64 ordinal)
{
	struct fl_payload payload;
	struct fl_packet packet;
	__u32 bit;
	__u8 byte;

	if (parse_packet(skb, &packet) || !find_payload(skb, &packet, &payload))
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
	if (!chosen(skb, 1, effect, &choice))
		return PASS;
	if (effect & EFFECT_CORRUPT) {
		bit = choose_bit(skb, config->dice.seed, choice.ordinal);
		if (bit == NO_BIT)
			return PASS;
	}
	decide(skb, config->run, config->fault, choice.ordinal, effect, choice.hold);
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
	if (!chosen(skb, 1, 0, &choice))
		return PASS;
	skb->priority = config->class;
	count(hit);
	return PASS;
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

	if (!chosen(skb, 1, EFFECT_LOSE, &choice))
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

	if (!chosen(skb, 0, EFFECT_LOSE, &choice))
		return PASS;
	count(hit);
	return DROP;
}
