// Package document reads and writes experiments as YAML and JSON.
//
// Reading is strict: an unknown or repeated field, a value of the wrong kind or
// an unknown unit is an error that carries its line and column, and as many
// errors as can be found are reported together. The protobuf messages in
// faultline/v1alpha1 are the one definition; this package walks the text along
// their descriptors and leaves the last word to protojson.
package document

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// MaxSize is the largest document in bytes.
const MaxSize = 1 << 20

// maxErrors is how many errors are collected before the rest is left out.
const maxErrors = 50

// Error is one thing that is wrong with a document.
type Error struct {
	File string
	// Line and Column count from 1; a column is a character, not a byte.
	Line, Column int
	// Path is where, in JSON names: "spec.steps[0].faults[1].duration". It is
	// empty for what concerns the text as a whole.
	Path    string
	Message string
}

// Error is "FILE:LINE:COLUMN: PATH: MESSAGE".
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:", e.File)
	}
	fmt.Fprintf(&b, "%d:%d: ", e.Line, e.Column)
	if e.Path != "" {
		fmt.Fprintf(&b, "%s: ", e.Path)
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors are all that were found, in the order of the text. It is never empty
// when it is returned as an error.
type Errors []*Error

// Error gives each error a line of its own.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find the first *Error.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, one := range e {
		list[i] = one
	}
	return list
}

// Document is an experiment and where its parts stand in the text.
type Document struct {
	// Name is the file's name as it was given to Decode.
	Name       string
	Experiment *v1.Experiment
	positions  Positions
}

// At returns line and column, from 1, of what path names, or of its nearest
// ancestor that is in the text. For a mapping or list that is where its name
// stands, for a single value the value itself.
func (d *Document) At(path string) (line, column int) { return d.positions.At(path) }

// Error places a problem that was found after decoding, such as one of
// faults.Validate, in the text.
func (d *Document) Error(path, message string) *Error {
	line, column := d.At(path)
	return &Error{File: d.Name, Line: line, Column: column, Path: path, Message: message}
}

// Positions knows where the parts of a document stand.
type Positions map[string]Position

// Position is a place in a text; Line and Column count from 1.
type Position struct{ Line, Column int }

// At returns the position of path or of its nearest ancestor.
func (p Positions) At(path string) (line, column int) {
	for {
		if at, ok := p[path]; ok {
			return at.Line, at.Column
		}
		if path == "" {
			return 1, 1
		}
		path = parent(path)
	}
}

// parent cuts the last step from a path: "a.b[0]" to "a.b", "a.b" to "a".
func parent(path string) string {
	if strings.HasSuffix(path, `"]`) {
		if i := strings.LastIndex(path, `["`); i >= 0 {
			return path[:i]
		}
	}
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// KeyPath is the path of an entry of a map: labels.team, labels["a.b/c"].
func KeyPath(path, key string) string {
	if plainKey.MatchString(key) {
		return join(path, key)
	}
	return fmt.Sprintf("%s[%q]", path, key)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Decode reads an experiment from YAML 1.2 or JSON. name is used in errors. The
// error is of type Errors.
func Decode(name string, data []byte) (*Document, error) {
	experiment := new(v1.Experiment)
	positions, err := Unmarshal(name, data, experiment)
	if err != nil {
		return nil, err
	}
	return &Document{Name: name, Experiment: experiment, positions: positions}, nil
}

// Unmarshal reads any message of the contract, such as a single fault, by the
// rules of Decode. It replaces what m held.
func Unmarshal(name string, data []byte, m proto.Message) (Positions, error) {
	root, err := parse(name, data, m.ProtoReflect().Descriptor())
	if err != nil {
		return nil, Errors{err}
	}
	d := &decoder{file: name, positions: Positions{"": {root.line, root.column}}}
	value, ok := d.message(root, "", m.ProtoReflect().Descriptor())
	if len(d.errs) > 0 {
		return nil, d.errors()
	}
	if !ok {
		return nil, Errors{{File: name, Line: root.line, Column: root.column, Message: "the document can't be read"}}
	}
	canonical, merr := json.Marshal(value)
	if merr == nil {
		merr = protojson.UnmarshalOptions{}.Unmarshal(canonical, m)
	}
	if merr != nil {
		return nil, Errors{{File: name, Line: root.line, Column: root.column, Message: merr.Error()}}
	}
	return d.positions, nil
}

// errors sorts what was found by its place in the text.
func (d *decoder) errors() Errors {
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return d.errs
}
