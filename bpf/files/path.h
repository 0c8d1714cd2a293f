/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a file is at a path that a pattern matches. Nothing is asked of the string
 * that the process gave: the file's directory entry is followed up to a directory
 * that Go knows (an anchor, by device and inode), so that relative paths, symbolic
 * links, bind mounts and mount namespaces lead to the same answer.
 *
 * The pattern is a row of components. Going up from the file, reach has a bit for
 * each of them from which on the names that were met match all the rest; an anchor
 * says which of them a path that leads there may stand before. A component that is
 * ** stands for any number of names.
 *
 * One name is matched against all components at once, character by character: each
 * has a run of bits in a word, of which one more is set for each character that
 * fits (shift-and; Baeza-Yates and Gonnet 1992).
 */
#pragma once

#include "../include/read.h"

enum {
	COMPONENTS_MAX = 16,
	CHARACTERS = 256,
	ANCHORS_MAX = 4096,
	/* Pieces of 8 characters, and directories, that are looked at for a file. */
	STEPS_MAX = 96,
	PIECE = 8,
	TYPE_MASK = 0170000, /* S_IFMT */
	TYPE_REGULAR = 0100000, /* S_IFREG */
};

/* Where things are in the running kernel's structs, bytes. */
struct fl_layout {
	__u32 file_dentry; /* file.f_path.dentry */
	__u32 path_dentry; /* path.dentry */
	__u32 dentry_parent;
	__u32 dentry_inode;
	__u32 dentry_sb;
	__u32 dentry_length; /* dentry.d_name.len */
	__u32 dentry_name; /* dentry.d_name.name */
	__u32 dentry_alias; /* dentry.d_u.d_alias */
	__u32 inode_number;
	__u32 inode_mode;
	__u32 inode_links;
	__u32 inode_aliases; /* inode.i_dentry */
	__u32 sb_device;
	__u32 task_files; /* task_struct.files */
	__u32 files_table; /* files_struct.fdt */
	__u32 table_size; /* fdtable.max_fds */
	__u32 table_files; /* fdtable.fd */
	/* The first argument of a system call, in its registers: as in
	 * bpf/syscalls/call.h. */
	__u32 descriptor[2];
	__u32 pad;
};
_Static_assert(sizeof(struct fl_layout) == 80, "known to Go");

struct fl_pattern {
	/* The bit before the first character of each component. */
	__u64 begin;
	/* Bits that stay set whatever the character is: after a *. */
	__u64 stay;
	/* The bit after the last character of each component. */
	__u8 end[COMPONENTS_MAX];
	__u32 components;
	/* Those that are **. */
	__u32 any;
};
_Static_assert(sizeof(struct fl_pattern) == 40, "known to Go");

/* Which bits a character takes a match to. */
struct fl_characters {
	__u64 fit[CHARACTERS];
	/* Is 0. */
	__u64 nothing;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_characters);
} fl_characters SEC(".maps");

struct fl_place {
	__u64 device; /* as in the kernel: 20 bits of minor number */
	__u64 inode;
};

/* Which components may come after a directory, or a file. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ANCHORS_MAX);
	__type(key, struct fl_place);
	__type(value, __u32);
} fl_anchors SEC(".maps");

static __always_inline const void *inode_of(const volatile struct fl_layout *layout,
					    const void *dentry)
{
	return load_pointer(dentry + layout->dentry_inode);
}

/* ** may stand for no name at all. */
static __always_inline __u32 skip_any(const volatile struct fl_pattern *pattern, __u32 reach)
{
	return reach | (reach >> 1 & pattern->any);
}

/* Goes one name up; active has the components that match it. */
static __always_inline __u32 go_up(const volatile struct fl_pattern *pattern, __u32 reach,
				   __u64 active)
{
	__u32 up = reach & pattern->any;

	for (int i = 0; i < COMPONENTS_MAX; i++) {
		if (i == pattern->components)
			break;
		up |= (__u32)(active >> pattern->end[i] & 1) << i & reach >> 1 & ~pattern->any;
	}
	return skip_any(pattern, up);
}

static __always_inline int is_anchor(const volatile struct fl_layout *layout, __u64 device,
				     const void *dentry, __u32 reach)
{
	const void *inode = inode_of(layout, dentry);
	struct fl_place place = { .device = device };
	__u32 *follow;

	if (!inode)
		return 0;
	place.inode = load_word(inode + layout->inode_number);
	follow = bpf_map_lookup_elem(&fl_anchors, &place);
	return follow && *follow & reach;
}

enum fl_match {
	ELSEWHERE = 0,
	MATCHES = 1,
	/* Its path is too long to be known. */
	TOO_LONG = 2,
};

/* A file has a directory entry for each of its names, of which others are asked too. */
static __always_inline const void *first_alias(const volatile struct fl_layout *layout,
					       const void *dentry)
{
	const void *inode = inode_of(layout, dentry);

	if (!inode || load_half(inode + layout->inode_links) < 2 ||
	    (load_half(inode + layout->inode_mode) & TYPE_MASK) != TYPE_REGULAR)
		return 0;
	return load_pointer(inode + layout->inode_aliases);
}

/*
 * Keeps a value from the verifier: of what it knows, it would go every way through the
 * loop by itself.
 */
#define FORGET(value) ((value) ^ *(volatile const __u64 *)&characters->nothing)

/* other is a second file on the same file system, which will do as well; or 0. */
static __always_inline enum fl_match match_path(const volatile struct fl_layout *layout,
						const volatile struct fl_pattern *pattern,
						const void *dentry, const void *other)
{
	const __u32 none = skip_any(pattern, 1U << pattern->components);
	const void *name = 0, *parent = 0, *alias;
	struct fl_characters *characters;
	__u32 key = 0, reach = none;
	__u64 device, active = 0, left = 0;

	characters = bpf_map_lookup_elem(&fl_characters, &key);
	if (!characters || !dentry)
		return ELSEWHERE;
	device = load_half(load_pointer(dentry + layout->dentry_sb) + layout->sb_device);
	if (is_anchor(layout, device, dentry, reach))
		return MATCHES;
	if (other && is_anchor(layout, device, other, reach))
		return MATCHES;
	alias = first_alias(layout, dentry);
	for (int step = 0; step < STEPS_MAX; step++) {
		__u64 piece;

		left = FORGET(left);
		reach = FORGET(reach);
		alias = (const void *)FORGET((__u64)alias);
		other = (const void *)FORGET((__u64)other);
		if (!left) {
			parent = load_pointer(dentry + layout->dentry_parent);
			if (!reach || parent == dentry) {
				if (alias) {
					dentry = alias - layout->dentry_alias;
					alias = load_pointer(alias);
				} else if (other) {
					dentry = other;
					alias = first_alias(layout, dentry);
					other = 0;
				} else {
					return ELSEWHERE;
				}
				reach = FORGET(none);
				parent = load_pointer(dentry + layout->dentry_parent);
			}
			left = load_half(dentry + layout->dentry_length) & 0xff;
			name = load_pointer(dentry + layout->dentry_name);
			active = pattern->begin;
			if (!left)
				return ELSEWHERE;
		}
		piece = load_word(name);
		name += PIECE;
#pragma unroll
		for (int i = 0; i < PIECE; i++) {
			__u64 fit = characters->fit[piece >> i * 8 & 0xff];

			active = (active << 1 & fit) | (active & pattern->stay);
			if (!--left)
				goto name_ends;
		}
		continue;
name_ends:
		reach = FORGET(go_up(pattern, reach, active));
		dentry = parent;
		if (reach && is_anchor(layout, device, dentry, reach))
			return MATCHES;
	}
	return TOO_LONG;
}
