package file

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/bpf/files"
)

// Bits of the mask of security_file_permission (linux/fs.h).
const (
	mayWrite = 2
	mayRead  = 4
)

// shape says what the arguments of a hook are: which programs serve it.
type shape struct{ lsm, modify string }

var (
	ofFile   = shape{files.ObjectsProgFlLsmFile, files.ObjectsProgFlModFile}
	ofAccess = shape{files.ObjectsProgFlLsmAccess, files.ObjectsProgFlModAccess}
	ofPath   = shape{files.ObjectsProgFlLsmPath, files.ObjectsProgFlModPath}
	ofEntry  = shape{files.ObjectsProgFlLsmEntry, files.ObjectsProgFlModEntry}
	ofChild  = shape{files.ObjectsProgFlLsmChild, files.ObjectsProgFlModChild}
	ofLink   = shape{files.ObjectsProgFlLsmLink, files.ObjectsProgFlModLink}
	ofRename = shape{files.ObjectsProgFlLsmRename, files.ObjectsProgFlModRename}
)

// hook is one by which the kernel asks its security modules (linux/lsm_hook_defs.h).
type hook struct {
	name  string
	shape shape
	// mask selects calls by the second argument; 0 takes all.
	mask uint32
	// newer: not all kernels have it; those before do the same by another one of the
	// operation.
	newer bool
}

// hooks are those of the operations. FSYNC has none.
var hooks = map[v1.FileOperation][]hook{
	v1.FileOperation_OPEN:   {{name: "file_open", shape: ofFile}},
	v1.FileOperation_READ:   {{name: "file_permission", shape: ofAccess, mask: mayRead}},
	v1.FileOperation_WRITE:  {{name: "file_permission", shape: ofAccess, mask: mayWrite}},
	v1.FileOperation_MMAP:   {{name: "mmap_file", shape: ofFile}},
	v1.FileOperation_STAT:   {{name: "inode_getattr", shape: ofPath}},
	v1.FileOperation_UNLINK: {{name: "inode_unlink", shape: ofChild}, {name: "inode_rmdir", shape: ofChild}},
	v1.FileOperation_RENAME: {{name: "inode_rename", shape: ofRename}},
	v1.FileOperation_MKDIR:  {{name: "inode_mkdir", shape: ofChild}},
	// Since 6.2 ftruncate has a hook of its own.
	v1.FileOperation_TRUNCATE: {{name: "path_truncate", shape: ofPath}, {name: "file_truncate", shape: ofFile, newer: true}},
	v1.FileOperation_LINK:     {{name: "inode_link", shape: ofLink}, {name: "inode_symlink", shape: ofChild}},
	v1.FileOperation_CHMOD:    {{name: "path_chmod", shape: ofPath}},
	// Since 6.8 that of 32-bit processes has a hook of its own.
	v1.FileOperation_IOCTL:  {{name: "file_ioctl", shape: ofFile}, {name: "file_ioctl_compat", shape: ofFile, newer: true}},
	v1.FileOperation_LOCK:   {{name: "file_lock", shape: ofFile}},
	v1.FileOperation_STATFS: {{name: "sb_statfs", shape: ofEntry}},
}
