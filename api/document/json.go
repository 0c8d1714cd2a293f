package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// jsonReader makes nodes of JSON tokens.
type jsonReader struct {
	name string
	data []byte
	dec  *json.Decoder
	// starts are the offsets at which lines begin.
	starts []int
}

func parseJSON(name string, data []byte) (*node, *Error) {
	r := &jsonReader{name: name, data: data, dec: json.NewDecoder(bytes.NewReader(data)), starts: []int{0}}
	r.dec.UseNumber()
	for i, c := range data {
		if c == '\n' {
			r.starts = append(r.starts, i+1)
		}
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r.value(0)
}

// next is the offset at which the next token begins.
func (r *jsonReader) next() int {
	i := int(r.dec.InputOffset())
	for i < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[i]) >= 0 {
		i++
	}
	return i
}

func (r *jsonReader) place(offset int) (line, column int) {
	line = sort.SearchInts(r.starts, offset+1)
	return line, 1 + utf8.RuneCount(r.data[r.starts[line-1]:offset])
}

func (r *jsonReader) fail(offset int, format string, args ...any) *Error {
	line, column := r.place(min(offset, len(r.data)))
	return &Error{File: r.name, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
}

// check reports what is wrong with the syntax. The reading of single tokens
// would find it too, but not say where.
func (r *jsonReader) check() *Error {
	var all json.RawMessage
	err := json.Unmarshal(r.data, &all)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax) && int(syntax.Offset) <= len(r.data) && !strings.Contains(syntax.Error(), "unexpected end"):
		// The offset counts the byte that was wrong.
		return r.fail(max(int(syntax.Offset)-1, 0), "not JSON: %s", err)
	default:
		return r.fail(len(r.data), "not JSON: %s", err)
	}
}

func (r *jsonReader) value(depth int) (*node, *Error) {
	at := r.next()
	if depth > maxDepth {
		return nil, r.fail(at, "more than %d levels", maxDepth)
	}
	token, err := r.dec.Token()
	if err != nil {
		return nil, r.fail(at, "not JSON: %s", err)
	}
	n := &node{plain: true}
	n.line, n.column = r.place(at)
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			n.kind = mappingNode
		} else {
			n.kind = sequenceNode
		}
		return n, r.children(n, depth)
	case string:
		n.text, n.plain = t, false
	case json.Number:
		n.text = t.String()
	case bool:
		n.text = fmt.Sprint(t)
	case nil:
		n.text = "null"
	}
	return n, nil
}

// children reads a mapping or list up to and with its closing delimiter.
func (r *jsonReader) children(n *node, depth int) *Error {
	for r.dec.More() {
		if n.kind == sequenceNode {
			item, err := r.value(depth + 1)
			if err != nil {
				return err
			}
			n.items = append(n.items, item)
			continue
		}
		key, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		value, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		n.pairs = append(n.pairs, pair{key, value})
	}
	at := r.next()
	if _, err := r.dec.Token(); err != nil {
		return r.fail(at, "not JSON: %s", err)
	}
	return nil
}
