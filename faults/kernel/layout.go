package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Offsets asks the kernel's types where fields of its structs are, in bytes. A field is
// given by the name of the struct and those of the members that lead to it:
// "file.f_path.dentry"; several, with spaces between them, are what kernels of different
// times call it.
func Offsets(fields map[string]*uint32) error {
	spec, err := kernelTypes()
	if err != nil {
		return err
	}
	for paths, at := range fields {
		if *at, err = offset(spec, strings.Fields(paths)); err != nil {
			return err
		}
	}
	return nil
}

func offset(spec *btf.Spec, paths []string) (uint32, error) {
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

// Constants asks the kernel's types for the values of enumerators.
func Constants(values map[string]*uint32) error {
	spec, err := kernelTypes()
	if err != nil {
		return err
	}
	missing := maps.Clone(values)
	for t, err := range spec.All() {
		if err != nil {
			return fmt.Errorf("reading the kernel's types: %w", err)
		}
		enum, ok := t.(*btf.Enum)
		if !ok {
			continue
		}
		for _, v := range enum.Values {
			if to := missing[v.Name]; to != nil {
				*to = uint32(v.Value)
				delete(missing, v.Name)
			}
		}
		if len(missing) == 0 {
			return nil
		}
	}
	return fmt.Errorf("this kernel has no %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
}
