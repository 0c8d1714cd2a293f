package document

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"faultline.dev/faultline/api/nearest"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxValues bounds how many values a document has once its aliases are put in.
const maxValues = 100_000

// fewFields is up to how many names an error lists them all.
const fewFields = 12

// decoder turns nodes into the canonical JSON of a message and collects errors.
type decoder struct {
	file      string
	errs      Errors
	positions Positions
	values    int
	// stopped after too many errors or values.
	stopped bool
}

func (d *decoder) fail(n *node, path, format string, args ...any) {
	if d.stopped {
		return
	}
	d.errs = append(d.errs, &Error{File: d.file, Line: n.line, Column: n.column, Path: path, Message: fmt.Sprintf(format, args...)})
	if len(d.errs) >= maxErrors {
		d.stopped = true
	}
}

// count reports whether there may be one more value.
func (d *decoder) count(n *node, path string) bool {
	d.values++
	if d.values > maxValues {
		d.fail(n, path, "the document has more than %d values; do its aliases multiply?", maxValues)
		d.stopped = true
	}
	return !d.stopped
}

// mark remembers where path stands: the value when it is a scalar or has no
// key, otherwise the key.
func (d *decoder) mark(path string, key, value *node) {
	if key == nil || value.kind == scalarNode {
		key = value
	}
	d.positions[path] = Position{key.line, key.column}
}

// message reads a mapping. Every function of this kind returns false after an
// error that it has reported.
func (d *decoder) message(n *node, path string, md protoreflect.MessageDescriptor) (any, bool) {
	if !d.count(n, path) {
		return nil, false
	}
	switch md.FullName() {
	case durationName:
		return d.duration(n, path)
	case timestampName:
		return d.text(n, path)
	}
	out := make(map[string]any)
	if n.kind == scalarNode && n.plain && n.text == "" && md.Fields().Len() == 0 {
		// "networkPartition:" with nothing after it.
		return out, true
	}
	if n.kind != mappingNode {
		d.fail(n, path, "%s where a mapping is wanted (%s)", describe(n), strings.Join(fieldNames(md), ", "))
		return nil, false
	}
	good := true
	seen := make(map[string]*node)
	chosen := make(map[protoreflect.FullName]*node)
	for _, p := range n.pairs {
		if d.stopped {
			return nil, false
		}
		fd, ok := d.field(p.key, path, md, seen, chosen)
		if !ok {
			good = false
			continue
		}
		at := join(path, fd.JSONName())
		d.mark(at, p.key, p.value)
		value, ok := d.fieldValue(p.value, at, fd)
		good = good && ok
		out[fd.JSONName()] = value
	}
	return out, good && !d.stopped
}

// field finds the field that a key names; seen and chosen are what the mapping
// already had.
func (d *decoder) field(key *node, path string, md protoreflect.MessageDescriptor, seen map[string]*node, chosen map[protoreflect.FullName]*node) (protoreflect.FieldDescriptor, bool) {
	name, ok := d.key(key, path)
	if !ok {
		return nil, false
	}
	at := KeyPath(path, name)
	fd := md.Fields().ByJSONName(name)
	if fd == nil {
		d.fail(key, at, "unknown field %q%s", name, suggest(name, fieldNames(md)))
		return nil, false
	}
	if first := seen[name]; first != nil {
		d.fail(key, at, "%q is already given in line %d", name, first.line)
		return nil, false
	}
	seen[name] = key
	if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
		if first := chosen[one.FullName()]; first != nil {
			d.fail(key, at, "%q and %q (line %d) exclude each other; give one", name, first.text, first.line)
			return nil, false
		}
		chosen[one.FullName()] = key
	}
	return fd, true
}

// key reads the name of a field or of a map's entry.
func (d *decoder) key(key *node, path string) (string, bool) {
	if key.kind != scalarNode || key.plain && isNull(key.text) {
		d.fail(key, path, "%s where a name is wanted", describe(key))
		return "", false
	}
	return key.text, true
}

func (d *decoder) fieldValue(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	switch {
	case fd.IsMap():
		return d.entries(n, path, fd)
	case fd.IsList():
		return d.list(n, path, fd)
	default:
		return d.single(n, path, fd)
	}
}

func (d *decoder) list(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	if n.kind != sequenceNode {
		hint := ""
		if n.kind == scalarNode && !(n.plain && isNull(n.text)) && fd.Message() == nil {
			hint = fmt.Sprintf("; write [%s]", short(n.text))
		}
		d.fail(n, path, "%s where a list is wanted%s", describe(n), hint)
		return nil, false
	}
	out, good := make([]any, 0, len(n.items)), true
	for i, item := range n.items {
		if d.stopped {
			return nil, false
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.mark(at, nil, item)
		value, ok := d.single(item, at, fd)
		good = good && ok
		out = append(out, value)
	}
	return out, good
}

func (d *decoder) entries(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	if n.kind != mappingNode {
		d.fail(n, path, "%s where a mapping of names to values is wanted", describe(n))
		return nil, false
	}
	out, good := make(map[string]any), true
	seen := make(map[string]*node)
	for _, p := range n.pairs {
		if d.stopped {
			return nil, false
		}
		name, ok := d.key(p.key, path)
		if !ok {
			good = false
			continue
		}
		at := KeyPath(path, name)
		if first := seen[name]; first != nil {
			d.fail(p.key, at, "%q is already given in line %d", name, first.line)
			good = false
			continue
		}
		seen[name] = p.key
		d.mark(at, p.key, p.value)
		value, ok := d.single(p.value, at, fd.MapValue())
		good = good && ok
		out[name] = value
	}
	return out, good
}

// single reads one value: a field, an item or the value of an entry.
func (d *decoder) single(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	if fd.Message() != nil {
		if fd.Message().FullName() == durationName && mayLastForever(fd) && n.kind == scalarNode && n.text == foreverWord {
			return foreverJSON, true
		}
		return d.message(n, path, fd.Message())
	}
	if !d.count(n, path) {
		return nil, false
	}
	if n.kind != scalarNode {
		d.fail(n, path, "%s where %s is wanted", describe(n), wanted(fd))
		return nil, false
	}
	if n.plain && isNull(n.text) {
		d.fail(n, path, "the value is missing; give %s or leave the field out", wanted(fd))
		return nil, false
	}
	if unitOf(fd) != 0 {
		return d.quantity(n, path, fd)
	}
	switch fd.Kind() {
	case protoreflect.EnumKind:
		return d.enum(n, path, fd.Enum())
	case protoreflect.BoolKind:
		return d.boolean(n, path, fd)
	case protoreflect.StringKind:
		return d.text(n, path)
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return d.float(n, path, fd)
	default:
		return d.integer(n, path, fd)
	}
}

// fieldNames lists a message's fields as a document writes them.
func fieldNames(md protoreflect.MessageDescriptor) []string {
	names := make([]string, md.Fields().Len())
	for i := range names {
		names[i] = md.Fields().Get(i).JSONName()
	}
	return names
}

// suggest ends an error about a name that is not among the candidates.
func suggest(name string, candidates []string) string {
	if word, ok := nearest.Word(name, candidates); ok {
		return fmt.Sprintf("; did you mean %q?", word)
	}
	switch {
	case len(candidates) == 0:
		return "; no fields are allowed here"
	case len(candidates) <= fewFields:
		return "; allowed: " + strings.Join(candidates, ", ")
	default:
		return fmt.Sprintf("; allowed are %s and %d more", strings.Join(candidates[:fewFields], ", "), len(candidates)-fewFields)
	}
}

// describe says what stands in the text.
func describe(n *node) string {
	switch {
	case n.kind == mappingNode:
		return "a mapping"
	case n.kind == sequenceNode:
		return "a list"
	case !n.plain:
		return "the text " + strconv.Quote(short(n.text))
	case isNull(n.text):
		return "nothing"
	case n.text == "true" || n.text == "false" || numberLike.MatchString(n.text):
		return short(n.text)
	default:
		return "the text " + strconv.Quote(short(n.text))
	}
}

var numberLike = regexp.MustCompile(`^[-+]?\.?[0-9][0-9a-fA-FxoeE.+_-]*$`)

// short keeps long values out of errors.
func short(s string) string {
	const limit = 60
	if len([]rune(s)) > limit {
		return string([]rune(s)[:limit]) + "..."
	}
	return s
}
