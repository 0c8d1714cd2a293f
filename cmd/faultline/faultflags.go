package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/reflect/protoreflect"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
)

// faultFlags are the fields of message Fault as flags, made from its
// descriptor. What the user gives is put into a document and read as one, so
// that units, ranges and words are those of documents.
type faultFlags struct {
	kind  fault.Kind
	flags *pflag.FlagSet
	// fields are the flags by name.
	fields map[string]*fieldFlag
	// names in the order of the help.
	names  []string
	target string
	pick   string
}

// fieldFlag is one flag and where its value goes. It is a [pflag.Value].
type fieldFlag struct {
	path  []string
	field protoreflect.FieldDescriptor
	given []string
}

func (v *fieldFlag) String() string { return strings.Join(v.given, ",") }

func (v *fieldFlag) Type() string { return varName(v.field) }

// Set takes the text as it is; what it means is decided with all the others.
func (v *fieldFlag) Set(text string) error {
	switch {
	case !v.field.IsList():
		v.given = []string{text}
	case isStructure(v.field):
		v.given = append(v.given, text)
	default:
		for item := range strings.SplitSeq(text, ",") {
			v.given = append(v.given, strings.TrimSpace(item))
		}
	}
	return nil
}

// notFlags are fields of Fault that get no flag of this kind: they are others,
// or have one of their own.
var notFlags = []string{"target", "filter", "rate", "observe"}

func newFaultFlags(cmd *cobra.Command, kind fault.Kind) *faultFlags {
	f := &faultFlags{kind: kind, flags: cmd.Flags(), fields: map[string]*fieldFlag{}}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.target, "target", "", "Whose events count: `target` is cgroup=PATH, unit=NAME, pid=NUMBER, container=NAME, pod=NAMESPACE/NAME, host (required)")
	md := (&v1.Fault{}).ProtoReflect().Descriptor()
	f.add(cmd, nil, md.Fields().ByJSONName("duration"))
	if fd := kindField(kind.Name); fd != nil {
		f.addAll(cmd, []string{fd.JSONName()}, fd.Message())
	}
	if takesFilter(kind.Name) {
		f.addAll(cmd, []string{"filter"}, md.Fields().ByJSONName("filter").Message())
	}
	f.addAll(cmd, []string{"rate"}, md.Fields().ByJSONName("rate").Message())
	cmd.Flags().StringVar(&f.pick, "pick", "", "Which of several matches of the target: `all|COUNT|PERCENT%`; default all.")
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		one := fd.ContainingOneof()
		if one != nil && !one.IsSynthetic() || slices.Contains(notFlags, fd.JSONName()) || fd.JSONName() == "duration" {
			continue
		}
		f.add(cmd, nil, fd)
	}
	return f
}

// takesFilter tells whether the kind looks at packets, sockets or queries, of
// which a filter chooses some.
func takesFilter(kind string) bool {
	return strings.HasPrefix(kind, "network") || strings.HasPrefix(kind, "socket") || strings.HasPrefix(kind, "dns")
}

func (f *faultFlags) addAll(cmd *cobra.Command, path []string, md protoreflect.MessageDescriptor) {
	for i := range md.Fields().Len() {
		f.add(cmd, path, md.Fields().Get(i))
	}
}

func (f *faultFlags) add(cmd *cobra.Command, path []string, fd protoreflect.FieldDescriptor) {
	name := kebab(fd.JSONName())
	if _, taken := f.fields[name]; taken {
		// The fault's own field came first; the other keeps its group's name.
		name = kebab(path[0]) + "-" + name
	}
	flag := &fieldFlag{path: append(slices.Clone(path), fd.JSONName()), field: fd}
	help := comment(fd)
	if help == "" {
		help = capital(strings.ReplaceAll(name, "-", " ")) + "."
	}
	if isStructure(fd) {
		var keys []string
		for i := range fd.Message().Fields().Len() {
			inner := fd.Message().Fields().Get(i)
			keys = append(keys, inner.JSONName()+"="+strings.ToUpper(varName(inner)))
		}
		help += " Written as " + strings.Join(keys, ",") + "."
	}
	switch {
	case fd.IsList() && isStructure(fd):
		help += " May be repeated."
	case fd.IsList():
		help += " A list with commas; may be repeated."
	}
	added := f.flags.VarPF(flag, name, "", help)
	if fd.Kind() == protoreflect.BoolKind && !fd.IsList() {
		added.NoOptDefVal = "true"
	}
	if fd.Enum() != nil {
		var words []string
		for _, w := range enumNames(fd.Enum()) {
			words = append(words, strings.ToLower(w))
		}
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	f.fields[name] = flag
	f.names = append(f.names, name)
}

// varName is the word for a value in the help.
func varName(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.Message() != nil && fd.Message().Name() == "Duration":
		return "duration"
	case isStructure(fd):
		return "KEY=VALUE,..."
	case fd.Enum() != nil && fd.Enum().Values().Len() <= 5:
		return strings.ToLower(strings.Join(enumNames(fd.Enum()), "|"))
	case fd.Enum() != nil:
		return "word"
	case fd.Kind() == protoreflect.BoolKind:
		return "bool"
	}
	return scalarName(fd)
}

// fault reads the flags as a document's fault.
func (f *faultFlags) fault() (*v1.Fault, error) {
	var errs []error
	doc := map[string]any{}
	if f.target == "" {
		errs = append(errs, errors.New("--target is missing: cgroup=PATH, unit=NAME or pid=NUMBER"))
	} else if target, err := parseTarget(f.target); err != nil {
		errs = append(errs, err)
	} else {
		if f.pick != "" {
			target["pick"] = parsePick(f.pick)
		}
		doc["target"] = target
	}
	if !f.flags.Changed("duration") {
		errs = append(errs, errors.New("--duration is missing: a time such as 30s"))
	}
	// The kind itself stands in the document even when all its fields have
	// their defaults.
	doc[f.kind.Name] = map[string]any{}
	for _, name := range f.names {
		if !f.flags.Changed(name) {
			continue
		}
		flag := f.fields[name]
		value, err := flag.value()
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			continue
		}
		put(doc, flag.path, value)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage(err)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, usage(fmt.Errorf("reading the flags: %w", err))
	}
	spec := &v1.Fault{}
	if _, err := document.Unmarshal("flags", data, spec); err != nil {
		var found document.Errors
		if !errors.As(err, &found) {
			return nil, usage(err)
		}
		for _, one := range found {
			errs = append(errs, f.problem(one.Path, one.Message))
		}
		return nil, usage(errors.Join(errs...))
	}
	return spec, nil
}

// problem says in terms of flags what is wrong at a path of the document.
func (f *faultFlags) problem(path, message string) error {
	best, length := "", 0
	for _, name := range f.names {
		at := strings.Join(f.fields[name].path, ".")
		if len(at) > length && (path == at || strings.HasPrefix(path, at+".") || strings.HasPrefix(path, at+"[")) {
			best, length = "--"+name, len(at)
		}
	}
	switch {
	case best != "":
		return fmt.Errorf("%s: %s", best, message)
	case strings.HasPrefix(path, "target.pick"):
		return fmt.Errorf("--pick: %s", message)
	case strings.HasPrefix(path, "target"):
		return fmt.Errorf("--target: %s", message)
	case path == "":
		return errors.New(message)
	default:
		return fmt.Errorf("%s: %s", path, message)
	}
}

func put(doc map[string]any, path []string, value any) {
	for _, name := range path[:len(path)-1] {
		inner, ok := doc[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			doc[name] = inner
		}
		doc = inner
	}
	doc[path[len(path)-1]] = value
}

func (v *fieldFlag) value() (any, error) {
	if !v.field.IsList() {
		return scalar(v.field, v.given[0])
	}
	out := make([]any, 0, len(v.given))
	for _, item := range v.given {
		value, err := scalar(v.field, item)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

// plainNumber is what JSON takes for a number.
var plainNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// scalar is a value as the document would hold it: words of an enum in capital
// letters, numbers without quotes, objects from key=value.
func scalar(fd protoreflect.FieldDescriptor, given string) (any, error) {
	switch {
	case isStructure(fd):
		return structure(fd.Message(), given)
	case fd.Enum() != nil:
		return strings.ToUpper(given), nil
	case fd.Kind() == protoreflect.BoolKind && (given == "true" || given == "false"):
		return given == "true", nil
	case fd.Kind() != protoreflect.StringKind && fd.Message() == nil && plainNumber.MatchString(given):
		return json.RawMessage(given), nil
	}
	return given, nil
}

// structure reads key=value,key=value.
func structure(md protoreflect.MessageDescriptor, given string) (any, error) {
	out := map[string]any{}
	for pair := range strings.SplitSeq(given, ",") {
		key, value, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !ok {
			return nil, fmt.Errorf("%q: wanted KEY=VALUE", pair)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		fd := md.Fields().ByJSONName(key)
		if fd == nil {
			var keys []string
			for i := range md.Fields().Len() {
				keys = append(keys, md.Fields().Get(i).JSONName())
			}
			return nil, fmt.Errorf("unknown key %q%s", key, didYouMean(key, keys, "allowed: "+strings.Join(keys, ", ")))
		}
		read, err := scalar(fd, strings.TrimSpace(value))
		if err != nil {
			return nil, err
		}
		out[key] = read
	}
	return out, nil
}

// targetKinds are the words before "=" in --target.
var targetKinds = map[string]string{
	"cgroup":      "cgroup",
	"unit":        "systemdUnit",
	"systemdUnit": "systemdUnit",
	"pid":         "pid",
	"container":   "container",
	"pod":         "pod",
}

func parseTarget(given string) (map[string]any, error) {
	if given == "host" {
		return map[string]any{"host": true}, nil
	}
	word, value, ok := strings.Cut(given, "=")
	field, known := targetKinds[word]
	if !ok || !known {
		return nil, fmt.Errorf("--target %q: wanted cgroup=PATH, unit=NAME, pid=NUMBER, container=NAME, pod=NAMESPACE/NAME or host", given)
	}
	if value == "" {
		return nil, fmt.Errorf("--target %q: nothing stands after the \"=\"", given)
	}
	switch field {
	case "pid":
		if !plainNumber.MatchString(value) {
			return nil, fmt.Errorf("--target %q: %q is not the number of a process", given, value)
		}
		return map[string]any{field: json.RawMessage(value)}, nil
	case "pod":
		namespace, name, ok := strings.Cut(value, "/")
		if !ok {
			return nil, fmt.Errorf("--target %q: wanted pod=NAMESPACE/NAME", given)
		}
		return map[string]any{field: map[string]any{"namespace": namespace, "name": name}}, nil
	}
	return map[string]any{field: value}, nil
}

// parsePick leaves what it can't read to the document's reader.
func parsePick(given string) map[string]any {
	number, percent := strings.CutSuffix(given, "%")
	var value any = number
	if plainNumber.MatchString(number) {
		value = json.RawMessage(number)
	}
	switch {
	case given == "all":
		return map[string]any{"all": true}
	case percent:
		return map[string]any{"percent": value}
	default:
		return map[string]any{"count": value}
	}
}
