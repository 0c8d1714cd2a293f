package file

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/tracing"
)

// Bits of the mask of security_file_permission (linux/fs.h).
const (
	mayWrite = 2
	mayRead  = 4
)

// The shapes of bpf/files.
const (
	ofFile         tracing.Shape = "file"
	ofAccess       tracing.Shape = "access"
	ofPath         tracing.Shape = "path"
	ofEntry        tracing.Shape = "entry"
	ofChild        tracing.Shape = "child"
	ofLink         tracing.Shape = "link"
	ofRename       tracing.Shape = "rename"
	ofDescriptor   tracing.Shape = "descriptor"
	ofDescriptor32 tracing.Shape = "descriptor_32"
)

// hooks are those of the operations. FSYNC has none.
var hooks = map[v1.FileOperation][]tracing.SecurityHook{
	v1.FileOperation_OPEN:   {{Name: "file_open", Shape: ofFile}},
	v1.FileOperation_READ:   {{Name: "file_permission", Shape: ofAccess, Mask: mayRead}},
	v1.FileOperation_WRITE:  {{Name: "file_permission", Shape: ofAccess, Mask: mayWrite}},
	v1.FileOperation_MMAP:   {{Name: "mmap_file", Shape: ofFile}},
	v1.FileOperation_STAT:   {{Name: "inode_getattr", Shape: ofPath}},
	v1.FileOperation_UNLINK: {{Name: "inode_unlink", Shape: ofChild}, {Name: "inode_rmdir", Shape: ofChild}},
	v1.FileOperation_RENAME: {{Name: "inode_rename", Shape: ofRename}},
	v1.FileOperation_MKDIR:  {{Name: "inode_mkdir", Shape: ofChild}},
	// Since 6.2 ftruncate has a hook of its own, and open with O_TRUNC goes there.
	v1.FileOperation_TRUNCATE: {{Name: "path_truncate", Shape: ofPath}, {Name: "file_truncate", Shape: ofFile, Newer: "ftruncate and open with O_TRUNC"}},
	v1.FileOperation_LINK:     {{Name: "inode_link", Shape: ofLink}, {Name: "inode_symlink", Shape: ofChild}},
	v1.FileOperation_CHMOD:    {{Name: "path_chmod", Shape: ofPath}},
	// Since 6.8 that of 32-bit processes has a hook of its own.
	v1.FileOperation_IOCTL:  {{Name: "file_ioctl", Shape: ofFile}, {Name: "file_ioctl_compat", Shape: ofFile, Newer: "ioctl of 32-bit processes"}},
	v1.FileOperation_LOCK:   {{Name: "file_lock", Shape: ofFile}},
	v1.FileOperation_STATFS: {{Name: "sb_statfs", Shape: ofEntry}},
}

// calls are those by which operations are met that the kernel asks nobody about, or about
// which nobody who sleeps may be asked. Their first argument is a descriptor.
var calls = map[v1.FileOperation][]string{
	v1.FileOperation_READ:  {"read", "pread64", "readv", "preadv", "preadv2"},
	v1.FileOperation_WRITE: {"write", "pwrite64", "writev", "pwritev", "pwritev2"},
	v1.FileOperation_FSYNC: {"fsync", "fdatasync"},
}
