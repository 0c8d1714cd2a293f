package document

import (
	"math"
	"strings"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

func TestEncodeYAML(t *testing.T) {
	got, err := Encode(fullExperiment(), YAML)
	if err != nil {
		t.Fatal(err)
	}
	const want = `apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata:
  name: checkout-slow-db
  labels:
    a.b/c: "7"
    team: payments
spec:
  seed: 18446744073709551615
  steps:
    - name: slow database
      faults:
        - name: loss
          target:
            systemdUnit: checkout.service
          duration: 1m30s
          filter:
            direction: EGRESS
            peers: [10.0.0.0/8, '::1']
            ports: ["5432", "8000-8999"]
            protocol: TCP
          rate:
            probability: 0.5
            every: 16
            first: 3
          pulse:
            on: 5s
            off: 1.5s
          observe: true
          networkLoss:
            percent: 30
            correlation: 25
        - target:
            systemdUnit: checkout.service
          duration: 100ms
          networkPartition: {}
        - target:
            pid: 1234
          duration: 100ms
          networkBandwidth:
            rate: 10Mbit
            burst: 64KiB
        - target:
            cgroup: /shop
          duration: 1h
          fileDelay:
            operations: [OPEN, READ]
            path: /var/lib/**
            delay: forever
  probes:
    - name: up
      command:
        command:
          - sh
          - -c
          - |
            curl localhost
            exit 0
  leaseTimeout: 10s
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeJSON(t *testing.T) {
	e := &v1.Experiment{Kind: "a<b>&\u2028", Spec: &v1.ExperimentSpec{Seed: proto.Uint64(1 << 63), Steps: []*v1.Step{{Faults: []*v1.Fault{{
		Fault: &v1.Fault_NetworkBandwidth{NetworkBandwidth: &v1.NetworkBandwidth{Rate: 8000, Burst: 7}},
	}}}}}}
	got, err := Encode(e, JSON)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "kind": "a<b>&\u2028",
  "spec": {
    "seed": 9223372036854775808,
    "steps": [
      {
        "faults": [
          {
            "networkBandwidth": {
              "rate": "8kbit",
              "burst": 7
            }
          }
        ]
      }
    ]
  }
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeRefusesWhatADocumentCannotHold(t *testing.T) {
	spec := func(s *v1.ExperimentSpec) *v1.Experiment { return &v1.Experiment{Spec: s} }
	fault := func(f *v1.Fault) *v1.Experiment {
		return spec(&v1.ExperimentSpec{Steps: []*v1.Step{{Faults: []*v1.Fault{f}}}})
	}
	for want, e := range map[string]*v1.Experiment{
		"spec.leaseTimeout: a document can't hold the duration":  spec(&v1.ExperimentSpec{LeaseTimeout: durationpb.New(-1)}),
		"spec.leaseTimeout: a document can't hold the duration ": spec(&v1.ExperimentSpec{LeaseTimeout: units.Forever()}),
		"spec.leaseTimeout: ": spec(&v1.ExperimentSpec{LeaseTimeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}),
		"rate.probability: a document can't hold the number NaN": fault(&v1.Fault{Rate: &v1.Rate{Probability: proto.Float64(math.NaN())}}),
		"persistence: a document can't hold the value 7 of":      fault(&v1.Fault{Persistence: 7}),
		"operations[0]: a document can't hold the value 0 of":    fault(&v1.Fault{Fault: &v1.Fault_FileError{FileError: &v1.FileError{Operations: []v1.FileOperation{0}}}}),
		"not UTF-8": {Kind: "\xff"},
	} {
		for _, format := range []Format{YAML, JSON} {
			if _, err := Encode(e, format); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
				t.Errorf("%s: %v, want %q", format, err, want)
			}
		}
	}
	if _, err := Encode(&v1.Experiment{}, "toml"); err == nil || !strings.Contains(err.Error(), "allowed: yaml, json") {
		t.Errorf("toml: %v", err)
	}
}

func TestMarshalJSON(t *testing.T) {
	r := &v1.Result{
		Name: "x", Seed: 1<<64 - 1, Verdict: v1.Verdict_PASSED, Rollback: v1.Rollback_VERIFIED,
		StartTime: &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 500_000_000},
		Faults:    []*v1.FaultResult{{Name: "loss", Injected: 7, Target: &v1.ResolvedTarget{Cgroups: []*v1.Cgroup{{Path: "/a", Id: 12345678901}}}}},
	}
	got, err := MarshalJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "name": "x",
  "runId": "",
  "seed": 18446744073709551615,
  "observe": false,
  "verdict": "PASSED",
  "reason": "",
  "rollback": "VERIFIED",
  "differences": [],
  "faults": [
    {
      "name": "loss",
      "fault": "",
      "step": "",
      "target": {
        "cgroups": [
          {
            "path": "/a",
            "id": 12345678901
          }
        ]
      },
      "mechanism": "",
      "state": "FAULT_STATE_UNSPECIFIED",
      "matched": 0,
      "injected": 7,
      "missed": 0,
      "error": "",
      "warnings": [],
      "events": []
    }
  ],
  "probes": [],
  "startTime": "2023-11-14T22:13:20.500Z",
  "version": ""
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	back := new(v1.Result)
	if err := protojson.Unmarshal(got, back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// Messages of the reports hold durations, odd numbers and enum values too.
func TestMarshalJSONOddValues(t *testing.T) {
	got, err := MarshalJSON(&v1.Plan{Duration: durationpb.New(90_500_000_000)})
	if err != nil || !strings.Contains(string(got), `"duration": "90.500s"`) {
		t.Errorf("%s, %v", got, err)
	}
	got, err = MarshalJSON(&v1.NetworkLoss{Percent: math.Inf(-1), Correlation: math.NaN(), GilbertElliott: &v1.GilbertElliott{P: math.Inf(1)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(got, new(v1.NetworkLoss)); err != nil {
		t.Errorf("%s: %v", got, err)
	}
	got, err = MarshalJSON(&v1.Result{Verdict: 99})
	if err != nil || !strings.Contains(string(got), `"verdict": 99`) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := MarshalJSON(&v1.Result{StartTime: &timestamppb.Timestamp{Seconds: math.MaxInt64}}); err == nil {
		t.Error("a time after the year 9999 was written")
	}
}

// drawMessage fills a message with whatever a document can hold.
func drawMessage(t *rapid.T, m protoreflect.Message) {
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		proto.Merge(d, durationpb.New(drawTime(t)))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if one := fd.ContainingOneof(); one != nil && m.WhichOneof(one) != nil {
			continue
		}
		if rapid.IntRange(0, 2).Draw(t, fd.JSONName()) == 0 {
			continue
		}
		switch {
		case fd.IsMap():
			entries := m.Mutable(fd).Map()
			for range rapid.IntRange(0, 2).Draw(t, "entries") {
				entries.Set(drawText(t).MapKey(), drawText(t))
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rapid.IntRange(0, 2).Draw(t, "items") {
				if fd.Message() != nil {
					drawMessage(t, list.AppendMutable().Message())
				} else {
					list.Append(drawScalar(t, fd))
				}
			}
		case fd.Message() != nil:
			if mayLastForever(fd) && rapid.Bool().Draw(t, "forever") {
				m.Set(fd, protoreflect.ValueOfMessage(units.Forever().ProtoReflect()))
			} else {
				drawMessage(t, m.Mutable(fd).Message())
			}
		default:
			m.Set(fd, drawScalar(t, fd))
		}
	}
}

func drawScalar(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.IntRange(1, fd.Enum().Values().Len()-1).Draw(t, "enum")))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.StringKind:
		return drawText(t)
	}
	t.Fatalf("no generator for %s", fd.Kind())
	return protoreflect.Value{}
}

// drawText prefers texts that YAML could take for something else.
func drawText(t *rapid.T) protoreflect.Value {
	return protoreflect.ValueOfString(rapid.OneOf(
		rapid.SampledFrom([]string{
			"", "true", "null", "~", "on", "5432", "1.5", "0x1f", "1e3", "2020-01-01", "- a", "a: b", "#", "a #b", "*x", "&x", "!x", "%", "@",
			"a\nb\n", "a\n\n  b\n", "\n", " a", "a ", "a\n b \n", "<<", "'", `"`, "{", "[a]", "é", "\u2028", "\ufeff", "\u0085", "\U0001f600", "\r\n", "0o7", "010", "=", ".", "---", "...", "a\tb",
		}),
		rapid.StringMatching(`[a-z0-9 :#{}\[\],&*!|>'"%@\n-]{0,20}`),
		rapid.String().Filter(func(s string) bool { return firstBad([]byte(s)) < 0 }),
	).Draw(t, "text"))
}

// drawTime is a duration that a document can hold.
func drawTime(t *rapid.T) time.Duration {
	return time.Duration(rapid.Int64Range(0, math.MaxInt64-1).Draw(t, "duration") >> rapid.IntRange(0, 60).Draw(t, "shift"))
}

func TestEncodeAndDecodeGiveTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := new(v1.Experiment)
		drawMessage(t, e.ProtoReflect())
		for _, format := range []Format{YAML, JSON} {
			text, err := Encode(e, format)
			if err != nil {
				t.Fatal(err)
			}
			d, err := Decode("x", text)
			if err != nil {
				t.Fatalf("%s\n%s", err, text)
			}
			if !proto.Equal(e, d.Experiment) {
				t.Fatalf("%s\n%s", cmp.Diff(e, d.Experiment, protocmp.Transform()), text)
			}
		}
		text, err := MarshalJSON(e)
		if err != nil {
			t.Fatal(err)
		}
		back := new(v1.Experiment)
		if err := protojson.Unmarshal(text, back); err != nil {
			t.Fatalf("%s\n%s", err, text)
		}
		if !proto.Equal(e, back) {
			t.Fatalf("%s\n%s", cmp.Diff(e, back, protocmp.Transform()), text)
		}
	})
}
