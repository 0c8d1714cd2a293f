package file

import (
	"sync"

	"faultline.dev/faultline/faults/kernel"
)

// layout is struct fl_layout.
type layout struct {
	FileDentry   uint32
	PathDentry   uint32
	DentryParent uint32
	DentryInode  uint32
	DentrySB     uint32
	DentryLength uint32
	DentryName   uint32
	DentryAlias  uint32
	InodeNumber  uint32
	InodeMode    uint32
	InodeLinks   uint32
	InodeAliases uint32
	SBDevice     uint32
	TaskFiles    uint32
	FilesTable   uint32
	TableSize    uint32
	TableFiles   uint32
	Descriptor   [2]uint32
	_            uint32
}

// readLayout asks the kernel's types, which don't change.
var readLayout = sync.OnceValues(func() (layout, error) {
	var l layout
	err := kernel.Offsets(map[string]*uint32{
		"file.f_path.dentry":                &l.FileDentry,
		"path.dentry":                       &l.PathDentry,
		"dentry.d_parent":                   &l.DentryParent,
		"dentry.d_inode":                    &l.DentryInode,
		"dentry.d_sb":                       &l.DentrySB,
		"dentry.d_name.len":                 &l.DentryLength,
		"dentry.d_name.name":                &l.DentryName,
		"dentry.d_u.d_alias dentry.d_alias": &l.DentryAlias,
		"inode.i_ino":                       &l.InodeNumber,
		"inode.i_mode":                      &l.InodeMode,
		"inode.i_nlink":                     &l.InodeLinks,
		"inode.i_dentry":                    &l.InodeAliases,
		"super_block.s_dev":                 &l.SBDevice,
		"task_struct.files":                 &l.TaskFiles,
		"files_struct.fdt":                  &l.FilesTable,
		"fdtable.max_fds":                   &l.TableSize,
		"fdtable.fd":                        &l.TableFiles,
	})
	abi, _ := kernel.Syscalls()
	l.Descriptor = [2]uint32{abi.Arguments[0], abi.Arguments32[0]}
	return l, err
})
