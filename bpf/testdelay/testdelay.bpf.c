//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Draws one delay each time it is run, under a lock as in the programs that
 * delay, and keeps them for a test to read.
 */
#include "../include/abi.h"
#include "../include/delay.h"

char LICENSE[] SEC("license") = "GPL";

enum { DRAWS = 20000 };

volatile const struct fl_delay fl_config;

struct fl_drawing {
	struct bpf_spin_lock lock;
	__u32 draws;
	/* The ordinal of the next draw; the test sets the first. */
	__u64 ordinal;
	struct fl_delay_state delay;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_drawing);
} fl_drawing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DRAWS);
	__type(key, __u32);
	__type(value, __u64);
} fl_drawn SEC(".maps");

SEC("tc")
int fl_draw(struct __sk_buff *skb)
{
	const struct fl_delay_table *table = delay_table();
	__u32 key = 0;
	struct fl_drawing *drawing = bpf_map_lookup_elem(&fl_drawing, &key);
	__u64 delay;

	if (!table || !drawing)
		return TC_ACT_SHOT;
	bpf_spin_lock(&drawing->lock);
	delay = draw_delay(&fl_config, table, drawing->ordinal, &drawing->delay);
	drawing->ordinal++;
	key = drawing->draws++;
	bpf_spin_unlock(&drawing->lock);
	return bpf_map_update_elem(&fl_drawn, &key, &delay, BPF_ANY) ? TC_ACT_SHOT : TC_ACT_OK;
}
