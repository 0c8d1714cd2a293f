package faults

import (
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/nearest"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

// AutoMechanism asks for the best mechanism that works here.
const AutoMechanism = "auto"

// validateFault returns paths relative to the fault.
func validateFault(f *v1.Fault) []fault.Problem {
	var p check.Problems
	validateTitle(&p, "name", f.GetName())
	kind, err := KindOf(f)
	if err != nil {
		p.Add("", "no kind of fault is given; name one, such as networkLoss: {percent: 30} (all: %s)", strings.Join(kindNames(), ", "))
	}
	p.Append("target", validateTarget(f.GetTarget(), kind))
	p.Required("duration", f.GetDuration(), fault.MaxDuration)
	validateShape(&p, f)
	validateRate(&p, f.GetRate())
	if err != nil {
		return p.List()
	}
	validateMechanism(&p, f.GetMechanism(), kind)
	for _, one := range kind.Validate(f) {
		p.Add(one.Path, "%s", one.Message)
	}
	return p.List()
}

func kindNames() []string {
	var list []string
	for _, k := range Catalogue() {
		list = append(list, k.Name)
	}
	return list
}

// validateShape checks how the fault grows and pulses.
func validateShape(p *check.Problems, f *v1.Fault) {
	duration := f.GetDuration().AsDuration()
	if ramp := f.GetRampUp(); ramp != nil {
		p.Positive("rampUp", ramp, fault.MaxDuration)
		if duration > 0 && ramp.AsDuration() > duration {
			p.Add("rampUp", "is %s, longer than the duration of %s", units.FormatDuration(ramp.AsDuration()), units.FormatDuration(duration))
		}
	}
	if pulse := f.GetPulse(); pulse != nil {
		p.Required("pulse.on", pulse.GetOn(), fault.MaxDuration)
		p.Required("pulse.off", pulse.GetOff(), fault.MaxDuration)
	}
}

func validateRate(p *check.Problems, rate *v1.Rate) {
	if rate == nil {
		return
	}
	if rate.Probability != nil && !(rate.GetProbability() > 0 && rate.GetProbability() <= 1) {
		p.Add("rate.probability", "is %v; allowed is above 0, at most 1 (0.3 is 30 percent)", rate.GetProbability())
	}
	if rate.Every != nil && rate.GetEvery() == 0 {
		p.Add("rate.every", "is 0; allowed is 1 (every event) and more")
	}
	if rate.First != nil && rate.GetFirst() == 0 {
		p.Add("rate.first", "is 0, so that nothing would be hit; allowed is 1 and more")
	}
}

func validateMechanism(p *check.Problems, name string, kind fault.Kind) {
	if name == "" || name == AutoMechanism {
		return
	}
	known := []string{AutoMechanism}
	for _, m := range kind.Mechanisms {
		if m.Name == name {
			return
		}
		known = append(known, m.Name)
	}
	hint := ""
	if word, ok := nearest.Word(name, known); ok {
		hint = "; did you mean " + word + "?"
	}
	p.Add("mechanism", "%s has no mechanism %q%s (allowed: %s)", kind.Name, name, hint, strings.Join(known, ", "))
}
