//go:build linux && privileged

package faults_test

import (
	"cmp"
	"context"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

// pool is what a field is drawn from: mostly what is right.
type pool[T any] struct{ right, wrong []T }

func (p pool[T]) draw(t *rapid.T, name string) T {
	list := p.right
	if len(p.wrong) > 0 && rapid.IntRange(0, 39).Draw(t, name+" is wrong") == 23 {
		list = p.wrong
	}
	return rapid.SampledFrom(list).Draw(t, name)
}

// words are for fields of text, by their names.
var words = map[string]pool[string]{
	"calls": {
		[]string{"openat", "read", "write", "getppid", "fsync", "connect", "mmap", "close", "io_uring_enter", "stat", "pread64", "getpid"},
		[]string{"futex", "exit_group", "nothing", ""},
	},
	"errno": {[]string{"EIO", "ENOSPC", "EAGAIN", "EWOULDBLOCK", "ECONNREFUSED"}, []string{"ENOTHING", "", "5"}},
	"path": {
		[]string{"/tmp/**", "/tmp/a*/[b-d]?/e", "/proc/self/status", "/", "/none/at/all", "/**/x", "/tmp/**/y/**/z/*"},
		[]string{"tmp", "/tmp//x", "/tmp/[", "/**/" + strings.Repeat("x", 80), "/" + strings.Repeat("a/", 40) + "*", ""},
	},
	"peers":         {[]string{"127.0.0.0/8", "::1", "0.0.0.0/0", "::ffff:10.0.0.1"}, []string{"10.0.0.0/33", "localhost"}},
	"exclude_peers": {[]string{"127.0.0.1", "fd00::/8"}, []string{"x"}},
	"hosts":         {[]string{"localhost", "db.example.com"}, []string{"a..b"}},
	"ports":         {[]string{"80", "22", "1000-65535"}, []string{"0", "http"}},
	"exclude_ports": {[]string{"443", "2-65535"}, []string{"9-1"}},
	"local_ports":   {[]string{"8080", "1-65535"}, []string{"99999"}},
	"names":         {[]string{"db.example.com", "*.example.com", "*"}, []string{"a*", ""}},
	"types":         {[]string{"A", "AAAA", "SRV"}, []string{"B"}},
	"address":       {[]string{"10.0.0.1", "::1"}, []string{"here"}},
	"mechanism":     {[]string{"", "fmod_ret", "fmod_ret_security", "lsm", "cgroup_sock", "kprobe_override"}, []string{"magic"}},
}

// integers are for numeric fields.
var integers = map[string]pool[int64]{
	"index":  {[]int64{0, 1, 2, 3, 4, 5}, []int64{6, 1 << 31}},
	"value":  {[]int64{0, 1, -1, -100, 1 << 40, -1 << 63, 1<<63 - 1}, nil},
	"weight": {[]int64{1, 3, 1000}, []int64{0}},
	"":       {[]int64{1, 2, 100, 1 << 40}, []int64{0, -1}},
}

// left says how many of ten documents leave a field out; those that are not here, 3. A
// document without what is needed has little to say, and one with all that may be
// wrong is refused for that alone.
var left = map[string]int{
	"operations": 1, "calls": 1, "errno": 1, "path": 1, "filter": 8, "pulse": 10, "ramp_up": 10, "arguments": 7,
	"SyscallError.path": 9, "persistence": 10, "errnos": 10, "mechanism": 7, "rate": 7, "direction": 9, "connections": 9, "families": 7,
}

// fill draws some fields of a message.
func fill(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		if field.ContainingOneof() != nil && !field.ContainingOneof().IsSynthetic() || rapid.IntRange(0, 9).Draw(t, name+" is left out") > 9-cmp.Or(left[string(field.Parent().Name())+"."+name], left[name], 3) {
			continue
		}
		if field.IsList() {
			list := m.Mutable(field).List()
			for range rapid.IntRange(1, 3).Draw(t, name+" length") {
				if field.Message() == nil {
					list.Append(draw(t, field))
					continue
				}
				fill(t, list.AppendMutable().Message())
			}
			continue
		}
		if field.Message() != nil {
			if field.Message().FullName() == "google.protobuf.Duration" {
				continue
			}
			fill(t, m.Mutable(field).Message())
			continue
		}
		m.Set(field, draw(t, field))
	}
}

func draw(t *rapid.T, field protoreflect.FieldDescriptor) protoreflect.Value {
	name := string(field.Name())
	number := func() int64 {
		of, ok := integers[name]
		if !ok {
			of = integers[""]
		}
		return of.draw(t, name)
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		of, ok := words[name]
		if !ok {
			of.right = []string{"x"}
		}
		return protoreflect.ValueOfString(of.draw(t, name))
	case protoreflect.EnumKind:
		var of pool[protoreflect.EnumNumber]
		for n := range protoreflect.EnumNumber(field.Enum().Values().Len()) {
			of.right = append(of.right, n)
		}
		of.wrong = []protoreflect.EnumNumber{0, -1, 99}
		if len(of.right) > 1 {
			of.right = of.right[1:]
		}
		return protoreflect.ValueOfEnum(of.draw(t, name))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, name))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(number()))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(number()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(number())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pool[float64]{[]float64{0.001, 0.5, 1}, []float64{0, -1, 2}}.draw(t, name))
	default:
		t.Fatalf("%s is of kind %s, of which nothing can be drawn", field.FullName(), field.Kind())
		return protoreflect.Value{}
	}
}

// drawn are the kinds of which random documents are planned.
var drawn = []string{"syscallError", "fileError", "socketError", "dnsFault"}

// names is a name server that knows every name.
type names struct{}

func (names) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// Whatever stands in a document, it is refused with words and a place, planned, or
// refused with words by the plan; and what is planned says what it would change.
func TestRandomDocuments(t *testing.T) {
	// make soak wants 10,000.
	checks := cmp.Or(os.Getenv("FAULTLINE_DOCUMENTS"), "60")
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	target, prober, root := env.Cgroup(t), env.Prober(t), env.CgroupRoot(t)
	kind := (&v1.Fault{}).ProtoReflect().Descriptor().Oneofs().ByName("fault").Fields()
	count := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		spec := &v1.Fault{Duration: durationpb.New(1e9)}
		m := spec.ProtoReflect()
		fill(t, m)
		name := rapid.SampledFrom(drawn).Draw(t, "kind")
		fill(t, m.Mutable(kind.ByJSONName(name)).Message())
		k, err := faults.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		if problems := k.Validate(spec); len(problems) > 0 {
			for _, p := range problems {
				if p.Path == "" || p.Message == "" {
					t.Fatalf("a problem says nothing: %+v", p)
				}
			}
			count["invalid"]++
			return
		}
		plan, err := k.Plan(context.Background(), fault.Request{
			Spec: spec, Cgroups: []fault.Cgroup{target}, Seed: 1, Observe: spec.GetObserve(), Prober: prober,
			Resolver: names{}, CgroupRoot: root, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			if len(err.Error()) < 10 {
				t.Fatalf("a refusal says little: %v", err)
			}
			count["refused"]++
			return
		}
		if plan.Mechanism == "" || plan.Summary == "" || len(plan.Changes) == 0 || slices.Contains(plan.Warnings, "") {
			t.Fatalf("a plan says nothing: %+v", plan)
		}
		count[name+" by "+plan.Mechanism]++
	})
	t.Logf("documents: %v", count)
}
