// Package schema holds the JSON Schema (draft 2020-12) of the experiment
// document, for editors and for programs that write documents. It is made from
// the protobuf contract, with the contract's comments.
//
// The schema knows fields, types, units and enum values. What is allowed beyond
// that (ranges, what needs what) is the matter of faults.Validate.
package schema

import _ "embed" // the schema

//go:generate go run ./gen

//go:embed experiment.schema.json
var experiment string

// Experiment returns the schema of the experiment document.
func Experiment() []byte { return []byte(experiment) }
