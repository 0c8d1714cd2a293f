// Package schema holds the JSON Schema (draft 2020-12) of the experiment
// document, for editors and for programs that write documents. It is made from
// the protobuf contract, with the contract's comments.
//
// The schema knows fields, types, units and enum values. What is allowed beyond
// that (ranges, what needs what) is the matter of faults.Validate.
package schema

import (
	_ "embed" // the schema
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
)

//go:generate go run ./gen

//go:embed experiment.schema.json
var experiment string

// Experiment returns the schema of the experiment document.
func Experiment() []byte { return []byte(experiment) }

// contractPackage is the protobuf package whose messages the schema defines.
const contractPackage = "faultline.v1alpha1."

// described is the part of a definition that Comment reads.
type described struct {
	Description string               `json:"description"`
	Properties  map[string]described `json:"properties"`
}

// definitions are read once; they never change.
var definitions = sync.OnceValue(func() map[string]described {
	var s struct {
		Defs map[string]described `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(experiment), &s); err != nil {
		panic(fmt.Sprintf("reading the schema in this program: %v", err))
	}
	return s.Defs
})

// Comment returns what the contract says about a message or a field that can
// be in an experiment, without line breaks; "" when it says nothing. Generated
// descriptors don't keep comments, the schema does.
func Comment(d protoreflect.Descriptor) string {
	name := func(d protoreflect.Descriptor) string {
		return strings.TrimPrefix(string(d.FullName()), contractPackage)
	}
	if fd, ok := d.(protoreflect.FieldDescriptor); ok {
		return definitions()[name(fd.Parent())].Properties[fd.JSONName()].Description
	}
	return definitions()[name(d)].Description
}
