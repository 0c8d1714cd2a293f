package document

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/nearest"
	"faultline.dev/faultline/api/units"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	durationName  protoreflect.FullName = "google.protobuf.Duration"
	timestampName protoreflect.FullName = "google.protobuf.Timestamp"

	foreverWord = units.ForeverWord
)

// foreverJSON is units.Forever in protobuf's JSON.
var foreverJSON = fmt.Sprintf("%ds", units.Forever().GetSeconds())

// mayLastForever tells whether "forever" is a value of the duration field.
func mayLastForever(fd protoreflect.FieldDescriptor) bool { return fd.JSONName() == "delay" }

// unitOf is how a person may write the field.
func unitOf(fd protoreflect.FieldDescriptor) v1.Unit {
	return proto.GetExtension(fd.Options(), v1.E_Unit).(v1.Unit)
}

// The scalars of YAML 1.2's core schema. Numbers with underscores or leading
// zeros, "yes" and "on" belong to YAML 1.1 and are not read as what they were.
var (
	decimal     = regexp.MustCompile(`^[-+]?(0|[1-9][0-9]*)$`)
	leadingZero = regexp.MustCompile(`^[-+]?0[0-9]+$`)
	prefixed    = regexp.MustCompile(`^0(o[0-7]+|x[0-9a-fA-F]+)$`)
	digits      = regexp.MustCompile(`^[-+]?[0-9]+$`)
	floating    = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
)

func isNull(text string) bool {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return true
	}
	return false
}

// wanted says in words what a scalar field takes.
func wanted(fd protoreflect.FieldDescriptor) string {
	switch unitOf(fd) {
	case v1.Unit_BYTES:
		return "a size such as 64KiB"
	case v1.Unit_BIT_RATE:
		return "a rate such as 10Mbit"
	}
	switch fd.Kind() {
	case protoreflect.EnumKind:
		return "one of " + strings.Join(enumNames(fd.Enum()), ", ")
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a text"
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return "a number"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return fmt.Sprintf("a whole number from %d to %d", math.MinInt32, math.MaxInt32)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return fmt.Sprintf("a whole number from %d to %d", math.MinInt64, math.MaxInt64)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64))
	}
	return "a value"
}

// text reads a string. A plain whole number is taken as it stands, so that
// ports: [5432] needs no quotes; what YAML would change on the way is not.
func (d *decoder) text(n *node, path string) (any, bool) {
	if n.kind != scalarNode || n.plain && isNull(n.text) {
		d.fail(n, path, "%s where a text is wanted", describe(n))
		return nil, false
	}
	if n.plain && !digits.MatchString(n.text) && (isBool(n.text) || floating.MatchString(n.text) || prefixed.MatchString(n.text)) {
		d.fail(n, path, "%s where a text is wanted; write it in quotes: %q", describe(n), n.text)
		return nil, false
	}
	return n.text, true
}

func isBool(text string) bool {
	switch text {
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return true
	}
	return false
}

func (d *decoder) boolean(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	if !n.plain || !isBool(n.text) {
		d.fail(n, path, "%s where %s is wanted", describe(n), wanted(fd))
		return nil, false
	}
	return strings.EqualFold(n.text, "true"), true
}

func (d *decoder) enum(n *node, path string, ed protoreflect.EnumDescriptor) (any, bool) {
	names := enumNames(ed)
	for _, name := range names {
		if n.text == name {
			return name, true
		}
	}
	hint := ""
	if word, ok := nearest.Word(n.text, names); ok {
		hint = fmt.Sprintf("; did you mean %s?", word)
	}
	d.fail(n, path, "unknown value %q%s (allowed: %s)", short(n.text), hint, strings.Join(names, ", "))
	return nil, false
}

// enumNames leaves out the value 0, which stands for a field that is not given.
func enumNames(ed protoreflect.EnumDescriptor) []string {
	var names []string
	for i := range ed.Values().Len() {
		if v := ed.Values().Get(i); v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	return names
}

func (d *decoder) float(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	if number, ok := strings.CutSuffix(n.text, "%"); ok && floating.MatchString(number) {
		d.fail(n, path, "%q where a number is wanted; write %s", short(n.text), short(number))
		return nil, false
	}
	if !n.plain || !floating.MatchString(n.text) {
		d.fail(n, path, "%s where %s is wanted", describe(n), wanted(fd))
		return nil, false
	}
	f, err := strconv.ParseFloat(n.text, 64)
	if err != nil {
		d.fail(n, path, "%s is too large", short(n.text))
		return nil, false
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), true
}

// integer reads a whole number. Those of 64 bits may stand in quotes, as
// protobuf's own JSON writes them.
func (d *decoder) integer(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	bits, signed := 64, true
	switch fd.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		bits = 32
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		bits, signed = 32, false
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		signed = false
	}
	if leadingZero.MatchString(n.text) {
		d.fail(n, path, "%s begins with a zero: write it without, or as 0o... when it is octal", short(n.text))
		return nil, false
	}
	if (n.plain || bits == 64) && (decimal.MatchString(n.text) || prefixed.MatchString(n.text)) {
		// Base 0 reads 0x and 0o; decimal has made sure of no leading zero.
		text := strings.TrimPrefix(n.text, "+")
		if signed {
			if v, err := strconv.ParseInt(text, 0, bits); err == nil {
				return json.Number(strconv.FormatInt(v, 10)), true
			}
		} else if v, err := strconv.ParseUint(text, 0, bits); err == nil {
			return json.Number(strconv.FormatUint(v, 10)), true
		}
	}
	d.fail(n, path, "%s where %s is wanted", describe(n), wanted(fd))
	return nil, false
}

// quantity reads a field with a unit.
func (d *decoder) quantity(n *node, path string, fd protoreflect.FieldDescriptor) (any, bool) {
	parse := units.ParseBytes
	if unitOf(fd) == v1.Unit_BIT_RATE {
		parse = units.ParseBitRate
	}
	v, err := parse(n.text)
	if err != nil {
		d.fail(n, path, "%s", err)
		return nil, false
	}
	return json.Number(strconv.FormatUint(v, 10)), true
}

// duration reads what units.ParseDuration does, as protobuf's JSON.
func (d *decoder) duration(n *node, path string) (any, bool) {
	if n.kind != scalarNode || n.plain && isNull(n.text) {
		d.fail(n, path, "%s where a duration such as 30s is wanted", describe(n))
		return nil, false
	}
	v, err := units.ParseDuration(n.text)
	if err != nil {
		d.fail(n, path, "%s", err)
		return nil, false
	}
	return fmt.Sprintf("%d.%09ds", v/1e9, v%1e9), true
}
