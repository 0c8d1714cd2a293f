package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseYAML returns nil and no error for a text without content.
func parseYAML(name string, data []byte) (*node, *Error) {
	r := &yamlReader{name: name, made: make(map[*yaml.Node]*node)}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := dec.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlError(name, data, err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, r.fail(&second, "a second document begins here; a file holds one")
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(name, data, err)
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		return nil, nil
	}
	top := document.Content[0]
	if top.Kind == yaml.ScalarNode && top.Value == "" && top.Style == 0 {
		return nil, nil
	}
	return r.node(top, 0)
}

type yamlReader struct {
	name string
	// made holds nil while a node is being made: an alias that leads to such a
	// node contains itself.
	made map[*yaml.Node]*node
}

func (r *yamlReader) fail(n *yaml.Node, format string, args ...any) *Error {
	return &Error{File: r.name, Line: max(n.Line, 1), Column: max(n.Column, 1), Message: fmt.Sprintf(format, args...)}
}

// coreTags are the tags of YAML's core schema that a document may spell out.
var coreTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq"}

func (r *yamlReader) node(y *yaml.Node, depth int) (*node, *Error) {
	if depth > maxDepth {
		return nil, r.fail(y, "more than %d levels", maxDepth)
	}
	if y.Kind == yaml.AliasNode {
		return r.alias(y, depth)
	}
	r.made[y] = nil
	n := &node{line: max(y.Line, 1), column: max(y.Column, 1), plain: y.Style&^yaml.TaggedStyle == 0}
	if y.Style&yaml.TaggedStyle != 0 {
		tag := y.ShortTag()
		known := false
		for _, core := range coreTags {
			known = known || tag == core
		}
		if !known {
			return nil, r.fail(y, "tag %q is not known; write the value without it", y.Tag)
		}
		n.plain = n.plain && tag != "!!str"
	}
	switch y.Kind {
	case yaml.ScalarNode:
		n.text = y.Value
	case yaml.SequenceNode:
		n.kind = sequenceNode
		for _, item := range y.Content {
			child, err := r.node(item, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, child)
		}
	case yaml.MappingNode:
		n.kind = mappingNode
		for i := 0; i+1 < len(y.Content); i += 2 {
			key, err := r.node(y.Content[i], depth+1)
			if err != nil {
				return nil, err
			}
			if key.kind == scalarNode && key.plain && key.text == "<<" {
				return nil, r.fail(y.Content[i], "merge keys (<<) are not part of YAML 1.2; repeat the fields, or use an alias for a whole value")
			}
			value, err := r.node(y.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			n.pairs = append(n.pairs, pair{key, value})
		}
	default:
		return nil, r.fail(y, "a value is missing here")
	}
	r.made[y] = n
	return n, nil
}

// alias shares the node that the alias names, so that nested aliases cost
// nothing here; the decoder counts how often it comes by.
func (r *yamlReader) alias(y *yaml.Node, depth int) (*node, *Error) {
	n, known := r.made[y.Alias]
	if known && n == nil {
		return nil, r.fail(y, "alias *%s stands inside of what it names", y.Value)
	}
	if !known {
		return r.node(y.Alias, depth)
	}
	return n, nil
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// yamlError gives the parser's errors a line and column that are right. The
// library gives no columns, no line for errors on the first, and in errors of
// its grammar (not of its scanner) lines that count from 0.
func yamlError(name string, data []byte, err error) *Error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
		if strings.HasPrefix(message, "did not find expected") {
			line++
		}
	}
	lines := strings.Split(string(data), "\n")
	line = min(max(line, 1), len(lines))
	text := lines[line-1]
	column := 1 + len(text) - len(strings.TrimLeft(text, " "))
	switch {
	case strings.HasPrefix(message, "unknown anchor "):
		if anchor := strings.Split(message, "'"); len(anchor) > 1 {
			if at := bytes.Index(data, []byte("*"+anchor[1])); at >= 0 {
				line, column = place(data, at)
			}
		}
	case column <= len(text) && text[column-1] == '\t':
		message = "a tab in the indentation; YAML takes spaces"
	case strings.Contains(message, "mapping values are not allowed"):
		message += ` (is the line indented too far, or does the value hold a ": " that needs quotes?)`
	case strings.Contains(message, "cannot start any token"):
		for i := column - 1; i < len(text); i++ {
			if text[i] == '@' || text[i] == '`' || text[i] == '%' || text[i] == '\t' {
				column = i + 1
				message = fmt.Sprintf("%q can't begin a value; put the value in quotes", string(text[i]))
				break
			}
		}
	}
	return &Error{File: name, Line: line, Column: column, Message: "not YAML: " + message}
}
