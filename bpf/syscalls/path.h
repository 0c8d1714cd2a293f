/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a path that a call was given is matched by a pattern, as the text that the
 * program wrote. Go makes the tables (faults/glob), and does the same.
 *
 * It is matched character by character: a bit stands for each place in the pattern
 * which the characters so far may have led to (shift-and; Baeza-Yates and Gonnet 1992).
 */
#pragma once

#include "../include/read.h"

enum {
	TEXT_WORDS = 4,
	TEXT_BITS = 64,
	CHARACTERS = 256,
	/* A path is read in pieces, the last byte of which is a NUL. Of longer ones than
	 * PIECES * (PIECE - 1) nothing is known. */
	PIECE = 64,
	PIECES = 8,
	/* Bits that hold which argument is a path, counted from 1. */
	ARGUMENT_BITS = 4,
	PATHS = 2,
	ARGUMENTS = 6,
};

struct fl_text {
	/* The bits that a character takes a match to, and those that stay set at it. */
	__u64 fit[CHARACTERS][TEXT_WORDS];
	__u64 stay[CHARACTERS][TEXT_WORDS];
	/* Those of which the next is set with them. */
	__u64 skip[TEXT_WORDS];
	__u64 begin[TEXT_WORDS];
	__u64 end[TEXT_WORDS];
};
_Static_assert(sizeof(struct fl_text) == (2 * CHARACTERS + 3) * TEXT_WORDS * 8, "known to Go");

/* Not a constant: the verifier would follow its bits, and come to no end. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_text);
} fl_text SEC(".maps");

struct fl_path_config {
	/* Where in the registers the arguments are, bytes, by enum fl_entry. */
	__u32 argument_offset[2][ARGUMENTS];
	/* A path is wanted. */
	__u32 used;
	__u32 pad;
};
_Static_assert(sizeof(struct fl_path_config) == 56, "known to Go");

volatile const struct fl_path_config fl_path_config;

/*
 * Which arguments of the call are paths: those of the function's call; where a function
 * is met by several calls, those are looked up.
 */
volatile const __u32 fl_path_arguments;

enum fl_path {
	ELSEWHERE = 0,
	MATCHES = 1,
	/* It is not in memory now, or too long. */
	UNKNOWN = 2,
};

static __always_inline void match_character(const struct fl_text *text, __u64 *active,
					    __u8 character)
{
	__u64 from_before = 0, skipped_before = 0;

	for (int i = 0; i < TEXT_WORDS; i++) {
		__u64 moved = (active[i] << 1 | from_before) & text->fit[character][i];
		__u64 skips = moved & text->skip[i];

		from_before = active[i] >> (TEXT_BITS - 1);
		active[i] = moved | skips << 1 | skipped_before |
			    (active[i] & text->stay[character][i]);
		skipped_before = skips >> (TEXT_BITS - 1);
	}
}

static __always_inline enum fl_path match_text(const char *path)
{
	__u32 key = 0;
	const struct fl_text *text = bpf_map_lookup_elem(&fl_text, &key);
	__u64 active[TEXT_WORDS], reached = 0;
	char piece[PIECE];

	if (!text)
		return ELSEWHERE;
	for (int i = 0; i < TEXT_WORDS; i++)
		active[i] = text->begin[i];
	for (int i = 0; i < PIECES; i++) {
		if (bpf_probe_read_user_str(piece, sizeof(piece), path) < 0)
			return UNKNOWN;
		for (int j = 0; j < PIECE - 1; j++) {
			if (!piece[j]) {
				for (int k = 0; k < TEXT_WORDS; k++)
					reached |= active[k] & text->end[k];
				return reached ? MATCHES : ELSEWHERE;
			}
			match_character(text, active, piece[j]);
		}
		path += PIECE - 1;
	}
	return UNKNOWN;
}

/* One path that matches is enough. */
static __always_inline enum fl_path match_paths(const void *registers, __u32 entry,
						__u32 arguments)
{
	enum fl_path all = ELSEWHERE;

	for (int i = 0; i < PATHS; i++) {
		__u32 argument = (arguments & ((1 << ARGUMENT_BITS) - 1)) - 1;
		enum fl_path one;
		__u64 at;

		if (argument >= ARGUMENTS)
			break;
		arguments >>= ARGUMENT_BITS;
		at = load_word(registers + fl_path_config.argument_offset[entry][argument]);
		if (entry)
			at = (__u32)at;
		if (!at)
			continue;
		one = match_text((const char *)at);
		if (one == MATCHES)
			return MATCHES;
		all |= one;
	}
	return all;
}
