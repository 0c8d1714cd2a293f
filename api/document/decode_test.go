package document

import (
	"errors"
	"strings"
	"testing"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
)

const full = `# everything that the decoder has a rule for
apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata:
  name: checkout-slow-db
  labels: {team: payments, "a.b/c": 7}
spec:
  seed: 18446744073709551615
  leaseTimeout: 10s
  steps:
  - name: slow database
    faults:
    - name: loss
      target: &target {systemdUnit: checkout.service}
      networkLoss: {percent: 30, correlation: 2.5e1}
      filter: {direction: EGRESS, peers: [10.0.0.0/8, "::1"], ports: [5432, "8000-8999"], protocol: TCP}
      rate: {probability: .5, every: 0x10, first: "3"}
      pulse: {on: 5s, off: 1.5s}
      duration: 1m30s
      observe: true
    - target: *target
      networkPartition:
      duration: 100ms
    - target: {pid: 1234}
      networkBandwidth: {rate: 10Mbit, burst: 64 KiB}
      duration: "0.1s"
    - target: {cgroup: /shop}
      fileDelay: {operations: [OPEN, READ], path: /var/lib/**, delay: forever}
      duration: 1h
  probes:
  - name: up
    command:
      command:
      - sh
      - -c
      - |
        curl localhost
        exit 0
`

func fullExperiment() *v1.Experiment {
	probability, every, first, seed := 0.5, uint64(16), uint64(3), uint64(18446744073709551615)
	unit := &v1.Target{Target: &v1.Target_SystemdUnit{SystemdUnit: "checkout.service"}}
	seconds := func(ms int64) *durationpb.Duration {
		return &durationpb.Duration{Seconds: ms / 1000, Nanos: int32(ms%1000) * 1e6}
	}
	return &v1.Experiment{
		ApiVersion: "faultline.dev/v1alpha1",
		Kind:       "Experiment",
		Metadata:   &v1.Metadata{Name: "checkout-slow-db", Labels: map[string]string{"team": "payments", "a.b/c": "7"}},
		Spec: &v1.ExperimentSpec{
			Seed:         &seed,
			LeaseTimeout: seconds(10000),
			Steps: []*v1.Step{{Name: "slow database", Faults: []*v1.Fault{
				{
					Name: "loss", Target: unit, Duration: seconds(90000), Observe: true,
					Fault:  &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: 30, Correlation: 25}},
					Filter: &v1.Filter{Direction: v1.Filter_EGRESS, Peers: []string{"10.0.0.0/8", "::1"}, Ports: []string{"5432", "8000-8999"}, Protocol: v1.Filter_TCP},
					Rate:   &v1.Rate{Probability: &probability, Every: &every, First: &first},
					Pulse:  &v1.Pulse{On: seconds(5000), Off: seconds(1500)},
				},
				{Target: unit, Duration: seconds(100), Fault: &v1.Fault_NetworkPartition{NetworkPartition: &v1.NetworkPartition{}}},
				{
					Target: &v1.Target{Target: &v1.Target_Pid{Pid: 1234}}, Duration: seconds(100),
					Fault: &v1.Fault_NetworkBandwidth{NetworkBandwidth: &v1.NetworkBandwidth{Rate: 10_000_000, Burst: 65536}},
				},
				{
					Target: &v1.Target{Target: &v1.Target_Cgroup{Cgroup: "/shop"}}, Duration: seconds(3600_000),
					Fault: &v1.Fault_FileDelay{FileDelay: &v1.FileDelay{
						Operations: []v1.FileOperation{v1.FileOperation_OPEN, v1.FileOperation_READ}, Path: "/var/lib/**", Delay: units.Forever(),
					}},
				},
			}}},
			Probes: []*v1.Probe{{Name: "up", Probe: &v1.Probe_Command{Command: &v1.CommandProbe{
				Command: []string{"sh", "-c", "curl localhost\nexit 0\n"},
			}}}},
		},
	}
}

func TestDecode(t *testing.T) {
	d, err := Decode("full.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullExperiment(), d.Experiment, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestAt(t *testing.T) {
	d, err := Decode("full.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Position{
		"":                                  {2, 1},
		"kind":                              {3, 7},
		"metadata":                          {4, 1},
		"metadata.labels.team":              {6, 18},
		`metadata.labels["a.b/c"]`:          {6, 37},
		`metadata.labels["x.y"]`:            {6, 3},
		"spec.steps":                        {10, 3},
		"spec.steps[0]":                     {11, 5},
		"spec.steps[0].faults[0].filter":    {16, 7},
		"spec.steps[0].faults[0].rampUp":    {13, 7},
		"spec.steps[0].faults[1].target":    {21, 7},
		"spec.steps[0].faults[1].target.x":  {21, 7},
		"spec.probes[0].command.command[2]": {36, 9},
		"spec.probes[7].name":               {30, 3},
		"nonsense":                          {2, 1},

		"spec.steps[0].faults[0].filter.ports[1]": {16, 77},
	} {
		line, column := d.At(path)
		if got := (Position{line, column}); got != want {
			t.Errorf("At(%q) = %v, want %v", path, got, want)
		}
	}
	if got, want := d.Error("spec.steps[0].name", "too slow").Error(), "full.yaml:11:11: spec.steps[0].name: too slow"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fault puts one line into an otherwise right fault, at line 7, column 5.
func inFault(line string) string {
	return "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata: {name: x}\nspec:\n  steps:\n  - faults:\n    - " + line + "\n"
}

func TestDecodeErrors(t *testing.T) {
	const at = "f.yaml:7:"
	const path = ": spec.steps[0].faults[0]"
	for name, c := range map[string]struct {
		in   string
		want string // one line for each error
	}{
		"unknown field":         {inFault("networkLos: {percent: 3}"), at + "7" + path + `.networkLos: unknown field "networkLos"; did you mean "networkLoss"?`},
		"field by proto name":   {inFault("network_loss: {percent: 3}"), at + "7" + path + `.network_loss: unknown field "network_loss"; did you mean "networkLoss"?`},
		"unknown, few allowed":  {inFault("pulse: {banana: 3s}"), at + "15" + path + `.pulse.banana: unknown field "banana"; allowed: on, off`},
		"unknown, many allowed": {inFault("banana: 1"), at + "7" + path + `.banana: unknown field "banana"; allowed are name, target, duration, filter, rate, mechanism, persistence, rampUp, pulse, observe, networkLoss, networkPartition and 19 more`},
		"unknown, none allowed": {inFault("networkPartition: {a: 1}"), at + "26" + path + `.networkPartition.a: unknown field "a"; no fields are allowed here`},
		"top level":             {"apiversion: x\n", `f.yaml:1:1: apiversion: unknown field "apiversion"; did you mean "apiVersion"?`},

		"unknown enum value":     {inFault("filter: {direction: UP}"), at + "27" + path + `.filter.direction: unknown value "UP" (allowed: EGRESS, INGRESS, BOTH)`},
		"enum in lower case":     {inFault("filter: {protocol: tcp}"), at + "26" + path + `.filter.protocol: unknown value "tcp"; did you mean TCP? (allowed: TCP, UDP, ICMP)`},
		"enum by number":         {inFault("filter: {protocol: 1}"), at + "26" + path + `.filter.protocol: unknown value "1" (allowed: TCP, UDP, ICMP)`},
		"enum's zero":            {inFault("filter: {protocol: PROTOCOL_UNSPECIFIED}"), at + "26" + path + `.filter.protocol: unknown value "PROTOCOL_UNSPECIFIED" (allowed: TCP, UDP, ICMP)`},
		"duplicate field":        {inFault("name: a\n      name: b"), "f.yaml:8:7" + path + `.name: "name" is already given in line 7`},
		"duplicate label":        {"metadata: {labels: {a: b, a: c}}", `f.yaml:1:27: metadata.labels.a: "a" is already given in line 1`},
		"two of a oneof":         {inFault("networkLoss: {percent: 3}\n      networkPartition: {}"), "f.yaml:8:7" + path + `.networkPartition: "networkPartition" and "networkLoss" (line 7) exclude each other; give one`},
		"two targets":            {inFault("target: {pid: 3, cgroup: /a}"), at + "24" + path + `.target.cgroup: "cgroup" and "pid" (line 7) exclude each other; give one`},
		"duration without unit":  {inFault("duration: 60"), at + "17" + path + `.duration: a duration needs a unit: write 60s`},
		"quoted, without unit":   {inFault(`duration: "60"`), at + "17" + path + `.duration: a duration needs a unit: write 60s`},
		"duration in days":       {inFault("duration: 1d"), at + "17" + path + `.duration: "1d" is not a duration: write numbers with the units ns, us, ms, s, m or h, such as 100ms or 1m30s`},
		"duration forever":       {inFault("duration: forever"), at + "17" + path + `.duration: "forever" is not a duration: write numbers with the units ns, us, ms, s, m or h, such as 100ms or 1m30s`},
		"duration negative":      {inFault("duration: -1s"), at + "17" + path + `.duration: a duration can't be negative`},
		"duration a mapping":     {inFault("duration: {seconds: 1}"), at + "17" + path + `.duration: a mapping where a duration such as 30s is wanted`},
		"duration missing":       {inFault("duration:"), at + "16" + path + `.duration: nothing where a duration such as 30s is wanted`},
		"unknown size unit":      {inFault("networkBandwidth: {burst: 64furlongs}"), at + "33" + path + `.networkBandwidth.burst: unknown unit "furlongs" (units: B, kB, KiB, MB, MiB, GB, GiB, TB, TiB)`},
		"ambiguous size unit":    {inFault("networkBandwidth: {burst: 64k}"), at + "33" + path + `.networkBandwidth.burst: unknown unit "k" may be 1000 or 1024: write kB or KiB`},
		"unknown rate unit":      {inFault("networkBandwidth: {rate: 10Mbps}"), at + "32" + path + `.networkBandwidth.rate: unknown unit "Mbps" may be bits or bytes per second: write Mbit or MBps`},
		"rate not a number":      {inFault("networkBandwidth: {rate: [1]}"), at + "32" + path + `.networkBandwidth.rate: a list where a rate such as 10Mbit is wanted`},
		"percent as text":        {inFault(`networkLoss: {percent: "30"}`), at + "30" + path + `.networkLoss.percent: the text "30" where a number is wanted`},
		"percent with a sign":    {inFault("networkLoss: {percent: 30%}"), at + "30" + path + `.networkLoss.percent: "30%" where a number is wanted; write 30`},
		"percent not a number":   {inFault("networkLoss: {percent: .nan}"), at + "30" + path + `.networkLoss.percent: the text ".nan" where a number is wanted`},
		"percent too large":      {inFault("networkLoss: {percent: 1e999}"), at + "30" + path + `.networkLoss.percent: 1e999 is too large`},
		"value missing":          {inFault("networkLoss: {percent: }"), at + "30" + path + `.networkLoss.percent: the value is missing; give a number or leave the field out`},
		"null":                   {inFault("target: null"), at + "15" + path + `.target: nothing where a mapping is wanted (cgroup, systemdUnit, pid, container, pod, host, pick, follow)`},
		"text for a mapping":     {inFault("target: checkout"), at + "15" + path + `.target: the text "checkout" where a mapping is wanted (cgroup, systemdUnit, pid, container, pod, host, pick, follow)`},
		"text for a list":        {inFault("filter: {ports: 80}"), at + "23" + path + `.filter.ports: 80 where a list is wanted; write [80]`},
		"mapping for a list":     {"spec: {steps: {faults: []}}", `f.yaml:1:15: spec.steps: a mapping where a list is wanted`},
		"list for a mapping":     {"metadata: {labels: [a]}", `f.yaml:1:20: metadata.labels: a list where a mapping of names to values is wanted`},
		"integer too large":      {inFault("target: {pid: 4294967296}"), at + "21" + path + `.target.pid: 4294967296 where a whole number from -2147483648 to 2147483647 is wanted`},
		"integer with fraction":  {inFault("target: {pid: 3.0}"), at + "21" + path + `.target.pid: 3.0 where a whole number from -2147483648 to 2147483647 is wanted`},
		"integer as text":        {inFault(`target: {pid: "3"}`), at + "21" + path + `.target.pid: the text "3" where a whole number from -2147483648 to 2147483647 is wanted`},
		"integer of YAML 1.1":    {inFault("target: {pid: 1_000}"), at + "21" + path + `.target.pid: 1_000 where a whole number from -2147483648 to 2147483647 is wanted`},
		"octal of YAML 1.1":      {inFault("target: {pid: 010}"), at + "21" + path + `.target.pid: 010 begins with a zero: write it without, or as 0o... when it is octal`},
		"negative unsigned":      {inFault("rate: {every: -1}"), at + "21" + path + `.rate.every: -1 where a whole number from 0 to 18446744073709551615 is wanted`},
		"bool of YAML 1.1":       {inFault("observe: yes"), at + "16" + path + `.observe: the text "yes" where true or false is wanted`},
		"bool for a text":        {inFault("name: true"), at + "13" + path + `.name: true where a text is wanted; write it in quotes: "true"`},
		"fraction for a text":    {inFault("name: 1.10"), at + "13" + path + `.name: 1.10 where a text is wanted; write it in quotes: "1.10"`},
		"list for a text":        {inFault("name: [a]"), at + "13" + path + `.name: a list where a text is wanted`},
		"list as a key":          {"? [a]\n: 1\n", `f.yaml:1:3: a list where a name is wanted`},
		"null as a key":          {"~: 1\n", `f.yaml:1:1: nothing where a name is wanted`},
		"several at once":        {inFault("duration: 60\n      observe: no\n      banan: 1"), at + "17" + path + ".duration: a duration needs a unit: write 60s\nf.yaml:8:16" + path + ".observe: the text \"no\" where true or false is wanted\nf.yaml:9:7" + path + `.banan: unknown field "banan"; allowed are name, target, duration, filter, rate, mechanism, persistence, rampUp, pulse, observe, networkLoss, networkPartition and 19 more`},
		"second document":        {"kind: a\n---\nkind: b\n", `f.yaml:2:1: a second document begins here; a file holds one`},
		"top is a list":          {"- a\n", `f.yaml:1:1: a list where a mapping is wanted (apiVersion, kind, metadata, spec)`},
		"top is a text":          {"hello\n", `f.yaml:1:1: the text "hello" where a mapping is wanted (apiVersion, kind, metadata, spec)`},
		"empty":                  {"", `f.yaml:1:1: the document is empty; write a mapping with apiVersion, kind, metadata, spec`},
		"only a comment":         {"# nothing\n---\n", `f.yaml:1:1: the document is empty; write a mapping with apiVersion, kind, metadata, spec`},
		"not UTF-8":              {"kind: \"Ex\xffp\"\n", `f.yaml:1:10: byte 0xff is not UTF-8`},
		"UTF-16":                 {"\xff\xfek\x00", `f.yaml:1:1: the text is UTF-16; save it as UTF-8`},
		"control character":      {"kind: é\n# \x07\n", `f.yaml:2:3: control character 0x07 is not allowed`},
		"tab as indentation":     {"metadata:\n\tname: x\n", `f.yaml:2:1: not YAML: a tab in the indentation; YAML takes spaces`},
		"tab after spaces":       {"metadata:\n  \tname: x\n  b: c\n", `f.yaml:2:3: not YAML: a tab in the indentation; YAML takes spaces`},
		"value in need of quote": {"kind: @a\n", `f.yaml:1:7: not YAML: "@" can't begin a value; put the value in quotes`},
		"colon in a value":       {"kind: a: b\n", `f.yaml:1:1: not YAML: mapping values are not allowed in this context (is the line indented too far, or does the value hold a ": " that needs quotes?)`},
		"bracket left open":      {"kind: a\nspec: {steps: [1\n", `f.yaml:2:1: not YAML: did not find expected ',' or ']'`},
		"list beside mapping":    {"- a\nb: 1\n", `f.yaml:2:1: not YAML: did not find expected '-' indicator`},
		"unknown alias":          {"kind: a\nmetadata: {name: *b}\n", `f.yaml:2:18: not YAML: unknown anchor 'b' referenced`},
		"alias inside itself":    {"metadata: &a\n  labels: *a\n", `f.yaml:2:11: alias *a stands inside of what it names`},
		"merge key":              {"a: &a {kind: x}\n<<: *a\n", `f.yaml:2:1: merge keys (<<) are not part of YAML 1.2; repeat the fields, or use an alias for a whole value`},
		"unknown tag":            {"kind: !secret x\n", `f.yaml:1:7: tag "!secret" is not known; write the value without it`},
		"too large":              {strings.Repeat("#", MaxSize+1), `f.yaml:1:1: the document has 1048577 bytes; at most 1048576 are read`},
		"too deep":               {strings.Repeat("[", 200) + strings.Repeat("]", 200), `f.yaml:1:102: more than 100 levels`},
		"JSON":                   {"{\n\t\"kind\": \"a\",\n\t\"metadata\": {\"name\": true}\n}", `f.yaml:3:23: metadata.name: true where a text is wanted; write it in quotes: "true"`},
		"JSON, duplicate":        {"{\"kind\": \"a\",\n \"kind\": \"b\"}", `f.yaml:2:2: kind: "kind" is already given in line 1`},
		"JSON, null":             {`{"metadata": null}`, `f.yaml:1:14: metadata: nothing where a mapping is wanted (name, labels, annotations)`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte(c.in))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeJSONErrors(t *testing.T) {
	for in, want := range map[string]string{
		`{"kind": "a"`:           "f.json:1:13: not JSON: unexpected end of JSON input",
		"{\n\"kind\": \"a\",\n}": "f.json:3:1: not JSON: invalid character '}' looking for beginning of object key string",
		"{\"kind\": 'a'}":        "f.json:1:10: not JSON: invalid character '\\'' looking for beginning of value",
		"{\"kind\": \"a\"} {}":   "f.json:1:15: not JSON: invalid character '{' after top-level value",
		"{\"kind\": 01}":         "f.json:1:11: not JSON: invalid character '1' after object key:value pair",
		`{"é": 1, "kindd": "a"}`: "f.json:1:2: [\"é\"]: unknown field",
		"{\"kind\":":             "f.json:1:9: not JSON: unexpected end of JSON input",
	} {
		_, err := Decode("f.json", []byte(in))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

func TestDecodeStopsAtTooManyErrors(t *testing.T) {
	_, err := Decode("f.yaml", []byte(inFault("filter: {ports: ["+strings.Repeat("true, ", 1000)+"]}")))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != maxErrors {
		t.Errorf("%d errors, want %d", len(errs), maxErrors)
	}
	var first *Error
	if !errors.As(err, &first) || first.Line != 7 || first.Column != 24 {
		t.Errorf("first error %v", first)
	}
}

func TestAliasesDoNotMultiply(t *testing.T) {
	// Nine levels of nine aliases each would be 9^9 texts.
	var b strings.Builder
	b.WriteString("metadata: {labels: {a: &a x}}\nspec:\n  probes:\n  - &p {name: x, command: {command: &c [" + strings.Repeat("*a, ", 200) + "]}}\n")
	b.WriteString(strings.Repeat("  - *p\n", 1000))
	_, err := Decode("bomb.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "do its aliases multiply?") {
		t.Errorf("got %v", err)
	}
	_, err = Decode("laugh.yaml", []byte("a: &a [x]\n"+
		"b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\n"+
		"d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\n"+
		"f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]\ng: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]\n"+
		"h: &h [*g, *g, *g, *g, *g, *g, *g, *g, *g]\ni: &i [*h, *h, *h, *h, *h, *h, *h, *h, *h]\n"))
	if err == nil || !strings.Contains(err.Error(), "unknown field") {
		t.Errorf("got %v", err)
	}
}

func TestJSONThatIsNotYAML(t *testing.T) {
	d, err := Decode("-", []byte("\ufeff{\n\t\"metadata\": {\"name\": \"a\\/\\ud83d\\ude00\"}\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Experiment.Metadata.Name; got != "a/\U0001f600" {
		t.Errorf("got %q", got)
	}
}
