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
#include "../include/decision.h"
#include "../include/dice.h"
#include "../include/events.h"
#include "../include/filter.h"
#include "../include/lease.h"
#include "../include/packet.h"
#include "../include/stats.h"

char LICENSE[] SEC("license") = "GPL";

struct fl_config {
	struct fl_dice dice;
	struct fl_filter filter;
	/* How long packets are held, ns. */
	__u64 hold;
	/* The marks of the run, of which it is the only one: MARK_RUN. */
	__u32 run;
	/* The fault's number in the run, below FAULTS_MAX. */
	__u32 fault;
	__u32 effect; /* enum fl_effect */
	/* Count what would be hit, hit nothing. */
	__u32 observe;
};
_Static_assert(sizeof(struct fl_config) == 152, "known to Go");

volatile const struct fl_config fl_config;

/* What the hooks make of a program's result. */
enum verdict {
	DROP = 0,
	PASS = 1,
	/* Egress, since 5.3: dropped, and the sender is not told EPERM. */
	DROP_QUIETLY = 2,
};

/* Decides about one packet, and counts it. */
static __always_inline int chosen(struct __sk_buff *skb, struct fl_packet *packet,
				  int egress, __u64 *ordinal)
{
	/* Volatile all the way: the compiler must not take the zeros that stand
	 * here for the values that are set before loading. */
	const volatile struct fl_config *config = &fl_config;
	enum fl_throw thrown;
	__u64 start, now = 0;

	start = lease_start(&now);
	if (!start)
		return 0;
	if (parse_packet(skb, packet))
		return 0;
	if (!filter_matches(&config->filter, packet, egress))
		return 0;
	if (!pulse_is_on(&config->dice, now - start))
		return 0;
	count(matched);
	thrown = throw_dice(&config->dice, now - start, now, ordinal);
	if (thrown == THROW_PASS)
		return 0;
	count(chosen);
	if (thrown == THROW_HIT_AND_SAMPLE)
		sample_packet(skb, packet, now, egress);
	return !config->observe;
}

SEC("cgroup_skb/egress")
int fl_mark_egress(struct __sk_buff *skb)
{
	const volatile struct fl_config *config = &fl_config;
	struct fl_decision *before = decision_of(skb->mark, config->run);
	struct fl_packet packet;
	__u64 ordinal = 0;

	/* What another fault of the run lets vanish never comes here. */
	if (before && before->effects & EFFECT_LOSE)
		return PASS;
	if (chosen(skb, &packet, 1, &ordinal))
		decide(skb, config->run, config->fault, ordinal,
		       config->effect, config->hold);
	return PASS;
}

SEC("cgroup_skb/egress")
int fl_drop_egress(struct __sk_buff *skb)
{
	struct fl_packet packet;
	__u64 ordinal = 0;

	if (!chosen(skb, &packet, 1, &ordinal))
		return PASS;
	count(hit);
	/* TCP takes EPERM as silence and backs off as it should; with the
	 * quiet drop it would know and try again at once. Others must not see
	 * EPERM from their send calls. */
	return packet.protocol == IPPROTO_TCP ? DROP : DROP_QUIETLY;
}

SEC("cgroup_skb/ingress")
int fl_drop_ingress(struct __sk_buff *skb)
{
	struct fl_packet packet;
	__u64 ordinal = 0;

	if (!chosen(skb, &packet, 0, &ordinal))
		return PASS;
	count(hit);
	return DROP;
}
