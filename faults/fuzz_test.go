package faults

import (
	"os"
	"path/filepath"
	"testing"

	"faultline.dev/faultline/api/document"
	"google.golang.org/protobuf/proto"
)

// FuzzValidate: no document makes the validation panic; every problem has words
// and a place; the defaults make no valid document invalid.
func FuzzValidate(f *testing.F) {
	examples, err := filepath.Glob("../examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range examples {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, kind := range Catalogue() {
		fault, err := yamlInStep(kind.Example)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fault)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := document.Decode("f", data)
		if err != nil {
			return
		}
		problems := Validate(d.Experiment)
		for _, p := range problems {
			if line, column := d.At(p.Path); p.Message == "" || line < 1 || column < 1 {
				t.Fatalf("problem %+v at %d:%d", p, line, column)
			}
		}
		filled := proto.Clone(d.Experiment)
		Defaults(d.Experiment)
		if len(problems) == 0 {
			if again := Validate(d.Experiment); len(again) > 0 {
				t.Fatalf("valid before the defaults, not after: %v\n%v", again, filled)
			}
		}
	})
}

// yamlInStep makes a document of a fault.
func yamlInStep(fault string) ([]byte, error) {
	d, err := document.Decode("step", []byte("apiVersion: "+APIVersion+"\nkind: Experiment\nmetadata: {name: x}\nspec: {steps: [{faults: [{}]}]}"))
	if err != nil {
		return nil, err
	}
	if _, err := document.Unmarshal("fault", []byte(fault), d.Experiment.Spec.Steps[0].Faults[0]); err != nil {
		return nil, err
	}
	return document.Encode(d.Experiment, document.YAML)
}
