// Package file holds the faults of file operations. They are met at the hooks by which
// the kernel asks its security modules (bpf/files), and told by the file itself and not
// by the string that a program gave.
package file

import (
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

// Kinds are the kinds of the family, in the order of the contract.
func Kinds() []fault.Kind { return []fault.Kind{Error(), Delay()} }

// operations are all of FileOperation but the unspecified one.
func operations() []v1.FileOperation {
	var list []v1.FileOperation
	for op := v1.FileOperation(1); v1.FileOperation_name[int32(op)] != ""; op++ {
		list = append(list, op)
	}
	return list
}

func validateWhere(p *check.Problems, spec interface {
	GetOperations() []v1.FileOperation
	GetPath() string
}) {
	check.Choices(p, "operations", spec.GetOperations(), operations())
	if spec.GetPath() == "" {
		p.Add("path", "is missing; give an absolute path or pattern, such as /var/lib/cart/**")
	}
	p.Glob("path", spec.GetPath())
}
