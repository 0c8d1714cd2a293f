package file

import (
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"

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
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return layout{}, fmt.Errorf("reading the kernel's types: %w", err)
	}
	var l layout
	for _, field := range []struct {
		at    *uint32
		paths string
	}{
		{&l.FileDentry, "file.f_path.dentry"},
		{&l.PathDentry, "path.dentry"},
		{&l.DentryParent, "dentry.d_parent"},
		{&l.DentryInode, "dentry.d_inode"},
		{&l.DentrySB, "dentry.d_sb"},
		{&l.DentryLength, "dentry.d_name.len"},
		{&l.DentryName, "dentry.d_name.name"},
		{&l.DentryAlias, "dentry.d_u.d_alias dentry.d_alias"},
		{&l.InodeNumber, "inode.i_ino"},
		{&l.InodeMode, "inode.i_mode"},
		{&l.InodeLinks, "inode.i_nlink"},
		{&l.InodeAliases, "inode.i_dentry"},
		{&l.SBDevice, "super_block.s_dev"},
		{&l.TaskFiles, "task_struct.files"},
		{&l.FilesTable, "files_struct.fdt"},
		{&l.TableSize, "fdtable.max_fds"},
		{&l.TableFiles, "fdtable.fd"},
	} {
		if *field.at, err = offset(spec, strings.Fields(field.paths)...); err != nil {
			return layout{}, err
		}
	}
	abi, _ := kernel.Syscalls()
	l.Descriptor = [2]uint32{abi.Arguments[0], abi.Arguments32[0]}
	return l, nil
})

// offset finds a field by the name of a struct and those of its members, in bytes.
// Several are what kernels of different times call it.
func offset(spec *btf.Spec, paths ...string) (uint32, error) {
	for _, path := range paths {
		name, members, _ := strings.Cut(path, ".")
		types, err := spec.AnyTypesByName(name)
		if err != nil {
			return 0, fmt.Errorf("looking for struct %s: %w", name, err)
		}
		for _, t := range types {
			if s, ok := t.(*btf.Struct); ok {
				if at, found := within(s.Members, strings.Split(members, ".")); found {
					return at, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("this kernel has no %s", strings.Join(paths, " or "))
}

// within finds a field below some members, those without a name included.
func within(members []btf.Member, names []string) (uint32, bool) {
	for _, m := range members {
		inner := innerOf(m.Type)
		switch {
		case m.Name == names[0] && len(names) == 1:
			return m.Offset.Bytes(), true
		case m.Name == names[0]:
			if at, found := within(inner, names[1:]); found {
				return m.Offset.Bytes() + at, true
			}
		case m.Name == "":
			if at, found := within(inner, names); found {
				return m.Offset.Bytes() + at, true
			}
		}
	}
	return 0, false
}

func innerOf(t btf.Type) []btf.Member {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		return t.Members
	case *btf.Union:
		return t.Members
	default:
		return nil
	}
}
