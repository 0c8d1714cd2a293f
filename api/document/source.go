package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// node is a part of the text, the same for YAML and JSON. Nodes that YAML
// aliases name are shared.
type node struct {
	kind         nodeKind
	line, column int
	// text is a scalar's value; plain when it stood there without quotes.
	text  string
	plain bool
	pairs []pair
	items []*node
}

type pair struct{ key, value *node }

type nodeKind int

const (
	scalarNode nodeKind = iota
	mappingNode
	sequenceNode
)

// maxDepth bounds how deep mappings and lists may be nested; the schema needs
// fewer than ten levels.
const maxDepth = 100

// parse checks the text as a whole and makes nodes of it.
func parse(name string, data []byte, md protoreflect.MessageDescriptor) (*node, *Error) {
	fail := func(line, column int, format string, args ...any) *Error {
		return &Error{File: name, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	}
	if len(data) > MaxSize {
		return nil, fail(1, 1, "the document has %d bytes; at most %d are read", len(data), MaxSize)
	}
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return nil, fail(1, 1, "the text is UTF-16; save it as UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := firstBad(data); at >= 0 {
		line, column := place(data, at)
		if r, size := utf8.DecodeRune(data[at:]); r == utf8.RuneError && size == 1 {
			return nil, fail(line, column, "byte 0x%02x is not UTF-8", data[at])
		}
		return nil, fail(line, column, "control character 0x%02x is not allowed", data[at])
	}
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	// Most JSON is YAML too, but not all of it: tabs, surrogates in escapes.
	if bytes.HasPrefix(trimmed, []byte("{")) && (json.Valid(trimmed) || strings.HasSuffix(name, ".json")) {
		root, err := parseJSON(name, data)
		if err != nil {
			return nil, err
		}
		return root, nil
	}
	root, err := parseYAML(name, data)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, fail(1, 1, "the document is empty; %s", wants(md))
	}
	return root, nil
}

// wants says how a document of the message begins.
func wants(md protoreflect.MessageDescriptor) string {
	return fmt.Sprintf("write a mapping with %s", strings.Join(fieldNames(md), ", "))
}

// firstBad is the offset of the first byte that no text has, or -1.
func firstBad(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f {
			return i
		}
		i += size
	}
	return -1
}

// place turns an offset into line and column.
func place(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	line = 1 + bytes.Count(before, []byte("\n"))
	last := bytes.LastIndexByte(before, '\n') + 1
	return line, 1 + utf8.RuneCount(before[last:])
}
