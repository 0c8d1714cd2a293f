package main

import (
	"fmt"
	"math"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// object is a part of the schema.
type object = map[string]any

// definer collects the definitions of messages and enums.
type definer struct {
	defs map[string]any
	err  error
}

// required are the fields without which faults.Validate never passes a
// message; proto3 does not say.
var required = map[string][]string{
	"Experiment":     {"apiVersion", "kind", "metadata", "spec"},
	"Metadata":       {"name"},
	"ExperimentSpec": {"steps"},
	"Step":           {"faults"},
	"Fault":          {"target", "duration"},
}

// constant are the fields that have one value.
var constant = map[string]string{
	"Experiment.apiVersion": "faultline.dev/v1alpha1",
	"Experiment.kind":       "Experiment",
}

func name(d protoreflect.Descriptor) string {
	return strings.TrimPrefix(string(d.FullName()), string(d.ParentFile().Package())+".")
}

func ref(d protoreflect.Descriptor) object { return object{"$ref": "#/$defs/" + name(d)} }

// comment is what stands before a declaration, without line breaks.
func comment(d protoreflect.Descriptor) string {
	text := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	return strings.Join(strings.Fields(text), " ")
}

func describe(o object, text string) object {
	if text != "" {
		o["description"] = text
	}
	return o
}

// message defines a message and all that it holds.
func (d *definer) message(md protoreflect.MessageDescriptor) {
	if d.defs[name(md)] != nil {
		return
	}
	properties := object{}
	def := describe(object{"type": "object", "additionalProperties": false, "properties": properties}, comment(md))
	if md.Fields().Len() == 0 {
		// "networkPartition:" with nothing after it is null in YAML.
		def["type"] = []string{"object", "null"}
	}
	d.defs[name(md)] = def
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		property := describe(d.field(fd), comment(fd))
		if value := constant[name(md)+"."+fd.JSONName()]; value != "" {
			property = describe(object{"const": value}, comment(fd))
		}
		properties[fd.JSONName()] = property
	}
	if fields := required[name(md)]; fields != nil {
		def["required"] = fields
		for _, f := range fields {
			if properties[f] == nil {
				d.fail("%s has no field %s that could be required", name(md), f)
			}
		}
	}
	if all := oneofs(md); len(all) > 0 {
		def["allOf"] = all
	}
}

// oneofs says that of each oneof there is at most one member.
func oneofs(md protoreflect.MessageDescriptor) []object {
	var all []object
	for i := range md.Oneofs().Len() {
		one := md.Oneofs().Get(i)
		if one.IsSynthetic() {
			continue
		}
		var members []object
		for j := range one.Fields().Len() {
			members = append(members, object{"required": []string{one.Fields().Get(j).JSONName()}})
		}
		none := object{"not": object{"anyOf": members}}
		all = append(all, describe(object{"oneOf": append([]object{none}, members...)}, comment(one)))
	}
	return all
}

func (d *definer) field(fd protoreflect.FieldDescriptor) object {
	switch {
	case fd.IsMap():
		return object{"type": "object", "additionalProperties": d.single(fd.MapValue())}
	case fd.IsList():
		return object{"type": "array", "items": d.single(fd)}
	default:
		return d.single(fd)
	}
}

const (
	durationPattern = `^([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h))*$`
	numberPattern   = `^[0-9]+(\.[0-9]+)? ?(%s)?$`
)

// single is one value of a field: what api/document reads.
func (d *definer) single(fd protoreflect.FieldDescriptor) object {
	switch proto.GetExtension(fd.Options(), v1.E_Unit).(v1.Unit) {
	case v1.Unit_BYTES:
		return quantity(units.ByteUnits(), "4096", "64KiB", "1.5MB")
	case v1.Unit_BIT_RATE:
		return quantity(units.BitRateUnits(), "512kbit", "10Mbit", "1MBps")
	}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		if fd.Message().FullName() == "google.protobuf.Duration" {
			return duration(fd)
		}
		d.message(fd.Message())
		return ref(fd.Message())
	case protoreflect.EnumKind:
		d.enum(fd.Enum())
		return ref(fd.Enum())
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.StringKind:
		// ports: [5432] needs no quotes.
		return object{"type": []string{"string", "integer"}}
	case protoreflect.DoubleKind:
		return object{"type": "number"}
	case protoreflect.Int32Kind:
		return object{"type": "integer", "minimum": math.MinInt32, "maximum": math.MaxInt32}
	case protoreflect.Uint32Kind:
		return object{"type": "integer", "minimum": 0, "maximum": uint32(math.MaxUint32)}
	case protoreflect.Int64Kind:
		return object{"type": "integer", "minimum": math.MinInt64, "maximum": math.MaxInt64}
	case protoreflect.Uint64Kind:
		return object{"type": "integer", "minimum": 0, "maximum": uint64(math.MaxUint64)}
	}
	d.fail("%s: no schema for the kind %s", fd.FullName(), fd.Kind())
	return nil
}

func quantity(names []string, examples ...string) object {
	return object{
		"anyOf": []object{
			{"type": "integer", "minimum": 0, "maximum": uint64(math.MaxUint64)},
			{"type": "string", "pattern": fmt.Sprintf(numberPattern, strings.Join(names, "|"))},
		},
		"examples": examples,
	}
}

func duration(fd protoreflect.FieldDescriptor) object {
	pattern := object{"type": "string", "pattern": durationPattern, "examples": []string{"100ms", "60s", "1m30s"}}
	if fd.JSONName() == "delay" {
		return object{"anyOf": []object{pattern, {"const": units.ForeverWord}}}
	}
	return pattern
}

// enum defines the names of an enum, and what the contract says about each.
func (d *definer) enum(ed protoreflect.EnumDescriptor) {
	var names, texts []string
	for i := range ed.Values().Len() {
		v := ed.Values().Get(i)
		if v.Number() == 0 {
			continue
		}
		names = append(names, string(v.Name()))
		if text := comment(v); text != "" {
			texts = append(texts, fmt.Sprintf("%s: %s", v.Name(), text))
		}
	}
	text := comment(ed)
	if text != "" && len(texts) > 0 {
		text += " "
	}
	d.defs[name(ed)] = describe(object{"enum": names}, text+strings.Join(texts, " "))
}

func (d *definer) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}
