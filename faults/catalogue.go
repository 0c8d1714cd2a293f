// Package faults is the catalogue: every kind of fault that a document can
// name, what is allowed in it, and its defaults.
package faults

import (
	"errors"
	"fmt"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/nearest"
	"faultline.dev/faultline/faults/disk"
	"faultline.dev/faultline/faults/dns"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/file"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pressure"
	"faultline.dev/faultline/faults/process"
	"faultline.dev/faultline/faults/socket"
	"faultline.dev/faultline/faults/syscall"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Errors that a caller may match.
var (
	// ErrUnknown: there is no fault of that name.
	ErrUnknown = errors.New("unknown fault")
	// ErrNoKind: a fault that says where and how long, but not what.
	ErrNoKind = errors.New("no kind of fault is given")
)

// Catalogue lists every kind, in a stable order: family by family, as in the
// contract. A test holds it against the members of the contract's oneof.
func Catalogue() []fault.Kind {
	var kinds []fault.Kind
	for _, family := range [][]fault.Kind{
		network.Kinds(),
		socket.Kinds(),
		dns.Kinds(),
		syscall.Kinds(),
		file.Kinds(),
		disk.Kinds(),
		pressure.Kinds(),
		process.Kinds(),
	} {
		kinds = append(kinds, family...)
	}
	return kinds
}

// Lookup finds a kind by its name, such as "networkLoss". Its error matches
// ErrUnknown and suggests a name.
func Lookup(name string) (fault.Kind, error) {
	kinds := Catalogue()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		if k.Name == name {
			return k, nil
		}
		names[i] = k.Name
	}
	if word, ok := nearest.Word(name, names); ok {
		return fault.Kind{}, fmt.Errorf("%w %q; did you mean %q?", ErrUnknown, name, word)
	}
	return fault.Kind{}, fmt.Errorf("%w %q (known: %s)", ErrUnknown, name, strings.Join(names, ", "))
}

// KindOf finds the kind of a fault by which member of the contract's oneof is
// set. Without one it returns ErrNoKind.
func KindOf(spec *v1.Fault) (fault.Kind, error) {
	m := spec.ProtoReflect()
	fd := m.WhichOneof(kindField())
	if fd == nil {
		return fault.Kind{}, ErrNoKind
	}
	return Lookup(fd.JSONName())
}

// kindField is the oneof whose members are the kinds.
func kindField() protoreflect.OneofDescriptor {
	return (&v1.Fault{}).ProtoReflect().Descriptor().Oneofs().ByName("fault")
}
