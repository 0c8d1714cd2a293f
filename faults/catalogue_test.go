package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/schema"
	"faultline.dev/faultline/faults/kernel"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Whoever adds a kind to the contract or to the catalogue learns here what the
// other side lacks.
func TestCatalogueHoldsEveryKindOfTheContract(t *testing.T) {
	seen := make(map[string]int)
	for _, kind := range Catalogue() {
		seen[kind.Name]++
	}
	members := kindField().Fields()
	for i := range members.Len() {
		name := members.Get(i).JSONName()
		if seen[name] != 1 {
			t.Errorf("%s is in the catalogue %d times", name, seen[name])
		}
		delete(seen, name)
	}
	for name := range seen {
		t.Errorf("%s is in the catalogue, but no member of the contract's oneof", name)
	}
}

func TestEntriesAreComplete(t *testing.T) {
	editor := faultSchema(t)
	for _, kind := range Catalogue() {
		t.Run(kind.Name, func(t *testing.T) {
			if kind.Summary == "" || kind.Scope == "" || len(kind.Mechanisms) == 0 || kind.Validate == nil {
				t.Error("summary, scope, mechanisms or validation are missing")
			}
			names := make(map[string]bool)
			for _, m := range kind.Mechanisms {
				if m.Name == "" || m.Summary == "" || len(m.Needs) == 0 || names[m.Name] {
					t.Errorf("mechanism %+v is incomplete or there twice", m)
				}
				names[m.Name] = true
				for _, need := range m.Needs {
					if kernel.Title(need) == "" {
						t.Errorf("%s needs %q, which the prober does not know", m.Name, need)
					}
				}
			}
			f := new(v1.Fault)
			if _, err := document.Unmarshal("example", []byte(kind.Example), f); err != nil {
				t.Fatal(err)
			}
			if got, err := KindOf(f); err != nil || got.Name != kind.Name {
				t.Errorf("the example is of kind %q, %v", got.Name, err)
			}
			if problems := validateFault(f); len(problems) > 0 {
				t.Errorf("the example has problems: %v", problems)
			}
			if err := editor.Validate(asJSON(t, kind.Example)); err != nil {
				t.Errorf("the example does not fit the schema: %v", err)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	kind, err := Lookup("networkLoss")
	if err != nil || kind.Name != "networkLoss" || !kind.Built() {
		t.Errorf("%+v, %v", kind, err)
	}
	for name, want := range map[string]string{
		"networkLos":   `unknown fault "networkLos"; did you mean "networkLoss"?`,
		"network-loss": `did you mean "networkLoss"?`,
		"banana":       `unknown fault "banana" (known: networkLoss, networkPartition, `,
	} {
		_, err := Lookup(name)
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := KindOf(&v1.Fault{}); !errors.Is(err, ErrNoKind) {
		t.Errorf("KindOf of nothing: %v", err)
	}
}

// faultSchema is the schema of a fault.
func faultSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.Experiment()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("experiment.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("experiment.schema.json#/$defs/Fault")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asJSON(t *testing.T, text string) any {
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
