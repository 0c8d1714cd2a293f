package faults

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/api/units"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

// What every document of this version begins with.
const (
	APIVersion     = "faultline.dev/v1alpha1"
	ExperimentKind = "Experiment"
)

const (
	minLease = time.Second
	maxLease = 10 * time.Minute

	maxName  = 253
	maxLabel = 253
	// maxTitle bounds the names of steps, faults and probes, which are shown
	// in lines and tables.
	maxTitle = 100
)

// Validate reports everything in an experiment that the schema can't say. It
// looks at the document alone, at nothing of this machine. Without problems it
// returns nil.
func Validate(exp *v1.Experiment) []fault.Problem {
	var p check.Problems
	if v := exp.GetApiVersion(); v != APIVersion {
		p.Add("apiVersion", "%s; this version reads %q", given(v), APIVersion)
	}
	if k := exp.GetKind(); k != ExperimentKind {
		p.Add("kind", "%s; write %q", given(k), ExperimentKind)
	}
	validateMetadata(&p, exp.GetMetadata())
	spec := exp.GetSpec()
	if d := spec.GetLeaseTimeout(); d != nil {
		if v := d.AsDuration(); v < minLease || v > maxLease {
			p.Add("spec.leaseTimeout", "is %s; allowed is %s to %s", units.FormatDuration(v), units.FormatDuration(minLease), units.FormatDuration(maxLease))
		}
	}
	validateSteps(&p, spec.GetSteps())
	validateProbes(&p, spec.GetProbes())
	return p.List()
}

func given(v string) string {
	if v == "" {
		return "is missing"
	}
	return fmt.Sprintf("is %q", v)
}

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func validateMetadata(p *check.Problems, m *v1.Metadata) {
	switch name := m.GetName(); {
	case name == "":
		p.Add("metadata.name", "is missing; give the experiment a name such as checkout-slow-db")
	case len(name) > maxName:
		p.Add("metadata.name", "has %d characters; at most %d are allowed", len(name), maxName)
	case !dnsName.MatchString(name):
		p.Add("metadata.name", "%q is no name; allowed are lower-case letters, digits, '-' and '.', with a letter or digit at both ends", name)
	}
	validateLabels(p, "metadata.labels", m.GetLabels())
	for key := range m.GetAnnotations() {
		if key == "" {
			p.Add("metadata.annotations", "has an entry without a name")
		}
	}
}

// validateLabels goes through them in order, so that the problems have one.
func validateLabels(p *check.Problems, path string, labels map[string]string) {
	keys := make([]string, 0, len(labels))
	for key := range labels {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		switch {
		case key == "":
			p.Add(path, "has a label without a name")
		case len(key) > maxLabel || len(labels[key]) > maxLabel || !printable(key) || !printable(labels[key]):
			p.Add(document.KeyPath(path, key), "is no label; name and value have at most %d printable characters each", maxLabel)
		}
	}
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// validateTitle checks the name of a step, fault or probe; it goes to
// terminals as it is.
func validateTitle(p *check.Problems, field, name string) {
	if len([]rune(name)) > maxTitle || !printable(name) || strings.TrimSpace(name) != name {
		p.Add(field, "%q is no name; allowed are at most %d printable characters, without a blank at the ends", name, maxTitle)
	}
}

func isPinned(f *v1.Fault) bool { return f.GetPersistence() == v1.Fault_PINNED }

func validateSteps(p *check.Problems, steps []*v1.Step) {
	if len(steps) == 0 {
		p.Add("spec.steps", "is missing or empty; give at least one step with a fault")
	}
	// Where each name was seen first.
	seen := make(map[string]string)
	for i, step := range steps {
		at := fmt.Sprintf("spec.steps[%d]", i)
		validateTitle(p, at+".name", step.GetName())
		if len(step.GetFaults()) == 0 {
			p.Add(at+".faults", "is missing or empty; give at least one fault")
		}
		for j, f := range step.GetFaults() {
			here := fmt.Sprintf("%s.faults[%d]", at, j)
			p.Append(here, validateFault(f))
			if first := steps[0].GetFaults(); len(first) > 0 && isPinned(f) != isPinned(first[0]) {
				p.Add(here+".persistence", "differs from that of spec.steps[0].faults[0]; a run outlives its process as a whole or not at all: write PINNED on every fault or on none")
			}
			if first := seen[f.GetName()]; first != "" {
				p.Add(here+".name", "%q is already the name of %s", f.GetName(), first)
			} else if f.GetName() != "" {
				seen[f.GetName()] = here
			}
		}
	}
}
