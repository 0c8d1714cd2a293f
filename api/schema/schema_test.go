package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// validator compiles the schema, which checks it against its meta-schema too.
func validator(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Experiment()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("experiment.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("experiment.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// instance is a YAML text as an editor gives it to a validator.
func instance(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestExamplesFit(t *testing.T) {
	s := validator(t)
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(instance(t, string(text))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFaults(t *testing.T) {
	s := validator(t)
	for fault, fits := range map[string]bool{
		"target: {pid: 7}\nduration: 60s\nnetworkPartition:":                                               true,
		"target: {pid: 7}\nduration: 1m30.5s\nfilter: {ports: [5432, 80-90]}\nnetworkLoss: {percent: 3.5}": true,
		"target: {pid: 7}\nduration: 60s\nnetworkBandwidth: {rate: 1.5 Gbit, burst: 4096}":                 true,
		"target: {pid: 7}\nduration: 60s\nfileDelay: {delay: forever}":                                     true,
		"target: {pid: 7}\nduration: 60s\nrate: {every: 18446744073709551615}\nnetworkPartition:":          true,
		"duration: 60s\nnetworkPartition:":                                                                 false,
		"target: {pid: 7}\nnetworkPartition:":                                                              false,
		"target: {pid: 7}\nduration: 60\nnetworkPartition:":                                                false,
		"target: {pid: 7}\nduration: '60'\nnetworkPartition:":                                              false,
		"target: {pid: 7}\nduration: forever\nnetworkPartition:":                                           false,
		"target: {pid: 7}\nduration: 60s\nnetworkLos: {percent: 3}":                                        false,
		"target: {pid: 7}\nduration: 60s\nnetwork_loss: {percent: 3}":                                      false,
		"target: {pid: 7}\nduration: 60s\nnetworkLoss: {percent: '3'}":                                     false,
		"target: {pid: 7}\nduration: 60s\nnetworkLoss: {percent: 3}\nnetworkPartition: {}":                 false,
		"target: {pid: 7, cgroup: /a}\nduration: 60s\nnetworkPartition:":                                   false,
		"target: {pid: '7'}\nduration: 60s\nnetworkPartition:":                                             false,
		"target: {pid: 4294967296}\nduration: 60s\nnetworkPartition:":                                      false,
		"target: {pid: 7}\nduration: 60s\nfilter: {direction: UP}\nnetworkPartition:":                      false,
		"target: {pid: 7}\nduration: 60s\nfilter: {direction: DIRECTION_UNSPECIFIED}\nnetworkPartition:":   false,
		"target: {pid: 7}\nduration: 60s\nfilter: {ports: 80}\nnetworkPartition:":                          false,
		"target: {pid: 7}\nduration: 60s\nrate: {every: -1}\nnetworkPartition:":                            false,
		"target: {pid: 7}\nduration: 60s\nnetworkBandwidth: {rate: 10Mbps}":                                false,
		"target: {pid: 7}\nduration: 60s\nnetworkBandwidth: {rate: 10Mbit, burst: 64k}":                    false,
		"target: {pid: 7}\nduration: 60s\nnetworkPartition: {a: b}":                                        false,
	} {
		text := "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata: {name: x}\nspec:\n  steps:\n  - faults:\n    - " +
			strings.ReplaceAll(fault, "\n", "\n      ") + "\n"
		if err := s.Validate(instance(t, text)); (err == nil) != fits {
			t.Errorf("fits: %v, want %v\n%s\n%v", err == nil, fits, text, err)
		}
	}
	for _, text := range []string{"{}", "[]", "apiVersion: faultline.dev/v2\nkind: Experiment\nmetadata: {name: x}\nspec: {steps: []}"} {
		if err := s.Validate(instance(t, text)); err == nil {
			t.Errorf("fits: %s", text)
		}
	}
}
