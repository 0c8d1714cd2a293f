// Package check holds the rules that the validation of many faults shares.
package check

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/fault"
	"google.golang.org/protobuf/types/known/durationpb"
)

// MaxDelay is the longest delay of one event that ends by itself. Longer ones
// would hold back every other program that wants to detach (RCU tasks trace).
const MaxDelay = 60 * time.Second

// Problems collects what is wrong; its paths begin with Prefix.
type Problems struct {
	Prefix string
	list   []fault.Problem
}

// Add reports a problem of the field below the prefix; "" is the prefix itself.
func (p *Problems) Add(field, format string, args ...any) {
	at := p.Prefix
	if field != "" && at != "" {
		at += "."
	}
	p.list = append(p.list, fault.Problem{Path: at + field, Message: fmt.Sprintf(format, args...)})
}

// Append takes over problems whose paths are relative to prefix.
func (p *Problems) Append(prefix string, problems []fault.Problem) {
	for _, one := range problems {
		at := prefix
		if one.Path != "" {
			at += "." + one.Path
		}
		p.list = append(p.list, fault.Problem{Path: at, Message: one.Message})
	}
}

// List returns what was reported, in order.
func (p *Problems) List() []fault.Problem { return p.list }

// Percent checks for 0 to 100.
func (p *Problems) Percent(field string, v float64) {
	if !(v >= 0 && v <= 100) { // NaN is outside too
		p.Add(field, "%v is no percentage; allowed is 0 to 100", v)
	}
}

// Share checks for a percentage above 0; what says of what.
func (p *Problems) Share(field string, v float64, what string) {
	if v == 0 {
		p.Add(field, "is missing or 0; give how many of 100 %s, above 0, at most 100", what)
		return
	}
	p.Percent(field, v)
}

// Positive checks a duration that may be left out for being above 0 and at
// most longest.
func (p *Problems) Positive(field string, d *durationpb.Duration, longest time.Duration) {
	if d == nil {
		return
	}
	if v := d.AsDuration(); v <= 0 || v > longest || d.CheckValid() != nil {
		p.Add(field, "is %s; allowed is above 0, at most %s", show(d), units.FormatDuration(longest))
	}
}

// Required is Positive for a duration that must be given.
func (p *Problems) Required(field string, d *durationpb.Duration, longest time.Duration) {
	if d == nil {
		p.Add(field, "is missing; give a duration above 0, at most %s", units.FormatDuration(longest))
		return
	}
	p.Positive(field, d, longest)
}

func show(d *durationpb.Duration) string {
	if units.IsForever(d) || d.AsDuration() == math.MaxInt64 {
		return units.ForeverWord
	}
	return units.FormatDuration(d.AsDuration())
}

// Delayer is a fault that delays something. One that also has a GetTable may take
// its distribution from a file.
type Delayer interface {
	GetDelay() *durationpb.Duration
	GetJitter() *durationpb.Duration
	GetCorrelation() float64
	GetDistribution() v1.Distribution
}

// Delay checks the fields that all delays share. forever tells whether the
// kind can hold an event until the fault ends.
func (p *Problems) Delay(d Delayer, forever bool) {
	longest := units.FormatDuration(MaxDelay)
	if forever {
		longest += ", or " + units.ForeverWord
	}
	endless := forever && units.IsForever(d.GetDelay())
	delay, jitter := d.GetDelay(), d.GetJitter()
	switch {
	case delay == nil:
		p.Add("delay", "is missing; give a duration above 0, at most %s", longest)
	case endless:
	case delay.CheckValid() != nil || delay.AsDuration() <= 0 || delay.AsDuration() > MaxDelay:
		p.Add("delay", "is %s; allowed is above 0, at most %s", show(delay), longest)
	}
	p.Percent("correlation", d.GetCorrelation())
	p.table(d)
	switch {
	case jitter == nil || jitter.AsDuration() == 0:
		if d.GetDistribution() != v1.Distribution_DISTRIBUTION_UNSPECIFIED {
			p.Add("distribution", "has no meaning without jitter")
		}
		if d.GetCorrelation() != 0 {
			p.Add("correlation", "has no meaning without jitter")
		}
	case endless:
		p.Add("jitter", "has no meaning with a delay of %s", units.ForeverWord)
	case jitter.CheckValid() != nil || jitter.AsDuration() < 0 || delay != nil && jitter.AsDuration() > delay.AsDuration():
		p.Add("jitter", "is %s; allowed is 0 up to the delay", show(jitter))
	}
}

// table checks the file of a distribution, where the kind takes one. What is in
// it is seen when the fault is planned, on the machine that has it.
func (p *Problems) table(d Delayer) {
	from, ok := d.(interface{ GetTable() string })
	if !ok || from.GetTable() == "" {
		return
	}
	if strings.ContainsRune(from.GetTable(), 0) {
		p.Add("table", "%q holds a NUL", from.GetTable())
	}
	if d.GetDistribution() != v1.Distribution_DISTRIBUTION_UNSPECIFIED {
		p.Add("table", "goes instead of distribution; give one of them")
	}
	if d.GetJitter().AsDuration() == 0 {
		p.Add("table", "has no meaning without jitter")
	}
}

// Choices checks a list of enum values for having at least one, none twice.
func Choices[E interface {
	~int32
	String() string
}](p *Problems, field string, values []E, allowed []E) {
	if len(values) == 0 {
		names := make([]string, len(allowed))
		for i, v := range allowed {
			names[i] = v.String()
		}
		p.Add(field, "is missing; give at least one of %s", strings.Join(names, ", "))
	}
	for i, v := range values {
		switch {
		case !slices.Contains(allowed, v):
			p.Add(fmt.Sprintf("%s[%d]", field, i), "%v is not known here", v)
		case slices.Contains(values[:i], v):
			p.Add(fmt.Sprintf("%s[%d]", field, i), "%v is given twice", v)
		}
	}
}

// AbsolutePath checks for a clean absolute path; it may be left out.
func (p *Problems) AbsolutePath(field, value string) {
	switch {
	case value == "":
	case strings.ContainsRune(value, 0):
		p.Add(field, "%q holds a NUL", value)
	case !strings.HasPrefix(value, "/"):
		p.Add(field, "%q is not absolute; begin it with /", value)
	case path.Clean(value) != value:
		p.Add(field, "%q is not a clean path; write %s", value, path.Clean(value))
	}
}

// Glob checks a path with the wildcards * (not across /), ** (across), ? and
// [a-z]; it may be left out.
func (p *Problems) Glob(field, value string) {
	p.AbsolutePath(field, value)
	p.Pattern(field, value)
}

// Pattern checks such wildcards in the text of any path.
func (p *Problems) Pattern(field, value string) {
	for part := range strings.SplitSeq(value, "/") {
		if strings.Contains(part, "**") && part != "**" {
			p.Add(field, "%q: ** stands alone between slashes, as in /var/**/x", value)
			return
		}
		if _, err := path.Match(part, ""); err != nil {
			p.Add(field, "%q is not a pattern; wildcards are *, **, ? and [a-z]", value)
			return
		}
	}
}

// NoFilter reports a filter on a kind that it can't narrow.
func (p *Problems) NoFilter(spec *v1.Fault, kind string) {
	if spec.GetFilter() != nil {
		p.list = append(p.list, fault.Problem{Path: "filter", Message: fmt.Sprintf("has no meaning for %s; it is for network, socket and DNS faults", kind)})
	}
}

// NoRate reports a rate on a kind without events to choose from.
func (p *Problems) NoRate(spec *v1.Fault, kind string) {
	if spec.GetRate() != nil {
		p.list = append(p.list, fault.Problem{Path: "rate", Message: fmt.Sprintf("has no meaning for %s, which does not choose among events", kind)})
	}
}
