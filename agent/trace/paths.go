package trace

// pathArguments says which argument of a call is a path, counted from 0. That of a program
// that was started (execve) is gone when the call returns.
var pathArguments = map[string]uint32{
	"access": 0, "chdir": 0, "chmod": 0, "chown": 0, "creat": 0, "faccessat": 1, "faccessat2": 1, "fchmodat": 1,
	"fchmodat2": 1, "fchownat": 1, "getxattr": 0, "inotify_add_watch": 1, "lchown": 0, "lgetxattr": 0, "link": 0,
	"linkat": 1, "listxattr": 0, "lsetxattr": 0, "lstat": 0, "mkdir": 0, "mkdirat": 1, "mknod": 0, "mknodat": 1,
	"newfstatat": 1, "open": 0, "openat": 1, "openat2": 1, "readlink": 0, "readlinkat": 1, "rename": 0, "renameat": 1,
	"renameat2": 1, "rmdir": 0, "setxattr": 0, "stat": 0, "statfs": 0, "statx": 1, "symlink": 1, "symlinkat": 2,
	"truncate": 0, "unlink": 0, "unlinkat": 1, "utimensat": 1,
}
