package document

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzDecode: no text makes the decoder panic, every error has a place in the
// text, and what it reads is read again from what Encode writes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(full))
	examples, err := filepath.Glob("../../examples/*.yaml")
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
	for _, seed := range []string{"{}", `{"kind": "\ud83d\ude00", "spec": {"seed": 1e3}}`, "a: &a [*a]", "? {a: b}\n: c", "%YAML 1.2\n---\nkind: a\n...\n", "kind: |2-\n   a\n", "\t", "kind: !!str 5", "metadata: {labels: {? a : b}}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Decode("f", data)
		if err != nil {
			errs, ok := err.(Errors) //nolint:errorlint // the type itself is promised
			if !ok || len(errs) == 0 {
				t.Fatalf("error of type %T: %v", err, err)
			}
			lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + bytes.Count(data, []byte("\u0085")) +
				bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029")) + 1
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Line > lines || e.Message == "" {
					t.Fatalf("%d lines: %v", lines, e)
				}
			}
			return
		}
		for _, format := range []Format{YAML, JSON} {
			text, err := Encode(d.Experiment, format)
			if err != nil {
				t.Fatalf("encoding what was decoded: %v", err)
			}
			again, err := Decode("again", text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if !proto.Equal(d.Experiment, again.Experiment) {
				t.Fatalf("%v\n%v", d.Experiment, again.Experiment)
			}
			stable, err := Encode(again.Experiment, format)
			if err != nil || !bytes.Equal(stable, text) {
				t.Fatalf("%v\n%s\n%s", err, text, stable)
			}
		}
	})
}
