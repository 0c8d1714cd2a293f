package document

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// object is a mapping that keeps its order.
type object struct{ members []member }

type member struct {
	name  string
	value any
}

// literal is a number, true or false as it is written.
type literal string

// treeMaker turns messages into values of the kinds object, []any, string and
// literal: as a person writes them (forPeople), or as programs read them, with
// the fields that hold their default.
type treeMaker struct{ forPeople bool }

func (t treeMaker) message(m protoreflect.Message, path string) (any, error) {
	md := m.Descriptor()
	if md.ParentFile().Package() == "google.protobuf" {
		return t.wellKnown(m, path)
	}
	var out object
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		if !m.Has(fd) && (t.forPeople || fd.HasPresence()) {
			continue
		}
		value, err := t.field(m.Get(fd), fd, join(path, fd.JSONName()))
		if err != nil {
			return nil, err
		}
		out.members = append(out.members, member{fd.JSONName(), value})
	}
	return out, nil
}

// wellKnown leaves messages with a JSON form of their own to protojson, but
// for the durations of people.
func (t treeMaker) wellKnown(m protoreflect.Message, path string) (any, error) {
	if d, ok := m.Interface().(*durationpb.Duration); ok && t.forPeople {
		if err := d.CheckValid(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		v := d.AsDuration()
		if v < 0 || v == math.MaxInt64 {
			return nil, fmt.Errorf("%s: a document can't hold the duration %v", path, d)
		}
		return units.FormatDuration(v), nil
	}
	data, err := protojson.Marshal(m.Interface())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, fmt.Errorf("%s: %s has no text form: %w", path, m.Descriptor().FullName(), err)
	}
	return text, nil
}

func (t treeMaker) field(v protoreflect.Value, fd protoreflect.FieldDescriptor, path string) (any, error) {
	switch {
	case fd.IsMap():
		var out object
		var err error
		v.Map().Range(func(k protoreflect.MapKey, item protoreflect.Value) bool {
			var value any
			value, err = t.single(item, fd.MapValue(), KeyPath(path, k.String()))
			out.members = append(out.members, member{k.String(), value})
			return err == nil
		})
		slices.SortFunc(out.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		return out, err
	case fd.IsList():
		out := make([]any, 0, v.List().Len())
		for i := range v.List().Len() {
			value, err := t.single(v.List().Get(i), fd, fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return nil, err
			}
			out = append(out, value)
		}
		return out, nil
	default:
		return t.single(v, fd, path)
	}
}

func (t treeMaker) single(v protoreflect.Value, fd protoreflect.FieldDescriptor, path string) (any, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok && t.forPeople && mayLastForever(fd) && units.IsForever(d) {
			return foreverWord, nil
		}
		return t.message(v.Message(), path)
	case protoreflect.EnumKind:
		return t.enum(v.Enum(), fd.Enum(), path)
	case protoreflect.BoolKind:
		return literal(strconv.FormatBool(v.Bool())), nil
	case protoreflect.StringKind:
		return v.String(), nil
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes()), nil
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return t.float(v.Float(), fd, path)
	}
	number := literal(v.String())
	if t.forPeople {
		switch unitOf(fd) {
		case v1.Unit_BYTES:
			return quantity(units.FormatBytes(v.Uint())), nil
		case v1.Unit_BIT_RATE:
			return quantity(units.FormatBitRate(v.Uint())), nil
		}
	}
	return number, nil
}

// quantity is a number when it came out without a unit.
func quantity(text string) any {
	if decimal.MatchString(text) {
		return literal(text)
	}
	return text
}

func (t treeMaker) enum(number protoreflect.EnumNumber, ed protoreflect.EnumDescriptor, path string) (any, error) {
	value := ed.Values().ByNumber(number)
	if value == nil || t.forPeople && number == 0 {
		if t.forPeople {
			return nil, fmt.Errorf("%s: a document can't hold the value %d of %s", path, number, ed.FullName())
		}
		return literal(strconv.Itoa(int(number))), nil
	}
	return string(value.Name()), nil
}

func (t treeMaker) float(f float64, fd protoreflect.FieldDescriptor, path string) (any, error) {
	bits := 64
	if fd.Kind() == protoreflect.FloatKind {
		bits = 32
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		if t.forPeople {
			return nil, fmt.Errorf("%s: a document can't hold the number %v", path, f)
		}
		switch {
		case math.IsNaN(f):
			return "NaN", nil
		case f > 0:
			return "Infinity", nil
		default:
			return "-Infinity", nil
		}
	}
	return literal(strconv.FormatFloat(f, 'g', -1, bits)), nil
}
