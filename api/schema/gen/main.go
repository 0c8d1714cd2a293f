// Command gen writes experiment.schema.json from the contract's .proto files,
// which it parses itself for their comments.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	// go generate runs in api/schema.
	out, err := generate("..")
	if err == nil {
		err = os.WriteFile("experiment.schema.json", out, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// generate makes the schema from the .proto files below root.
func generate(root string) ([]byte, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), "faultline/v1alpha1/experiment.proto")
	if err != nil {
		return nil, fmt.Errorf("parsing the contract: %w", err)
	}
	md, ok := files[0].FindDescriptorByName("faultline.v1alpha1.Experiment").(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("the contract has no message Experiment")
	}
	d := &definer{defs: make(map[string]any)}
	d.message(md)
	if d.err != nil {
		return nil, d.err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	// Maps are written in the order of their keys, so that the output is
	// stable.
	err = enc.Encode(map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         "https://faultline.dev/schema/v1alpha1/experiment.schema.json",
		"title":       "Faultline experiment",
		"description": "Generated from api/faultline/v1alpha1/*.proto; do not edit.",
		"$ref":        "#/$defs/Experiment",
		"$defs":       d.defs,
	})
	return b.Bytes(), err
}
