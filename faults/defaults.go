package faults

import (
	"fmt"
	"path"
	"slices"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// Defaults fills in the names that a document may leave out, so that results
// can speak of every part: steps are called "step 1", faults and probes by
// their kind ("networkLoss"), with "-2" and so on when that name is taken. A
// systemd unit without suffix becomes a service. Doing it again changes
// nothing.
func Defaults(exp *v1.Experiment) {
	faults, probes := make(names), make(names)
	for _, step := range exp.GetSpec().GetSteps() {
		for _, f := range step.GetFaults() {
			faults.take(f.GetName())
		}
	}
	for _, p := range exp.GetSpec().GetProbes() {
		probes.take(p.GetName())
	}
	for i, step := range exp.GetSpec().GetSteps() {
		if step.GetName() == "" {
			step.Name = fmt.Sprintf("step %d", i+1)
		}
		for _, f := range step.GetFaults() {
			if f.GetName() == "" {
				f.Name = faults.free(kindName(f))
			}
			if unit, ok := f.GetTarget().GetTarget().(*v1.Target_SystemdUnit); ok {
				unit.SystemdUnit = fullUnit(unit.SystemdUnit)
			}
		}
	}
	for _, p := range exp.GetSpec().GetProbes() {
		if p.GetName() == "" {
			p.Name = probes.free(probeName(p))
		}
	}
}

// names are those in use.
type names map[string]bool

func (n names) take(name string) {
	if name != "" {
		n[name] = true
	}
}

// free takes name, or name-2 and so on when it is in use.
func (n names) free(name string) string {
	chosen := name
	for i := 2; n[chosen]; i++ {
		chosen = fmt.Sprintf("%s-%d", name, i)
	}
	n[chosen] = true
	return chosen
}

func kindName(f *v1.Fault) string {
	if fd := f.ProtoReflect().WhichOneof(kindField()); fd != nil {
		return fd.JSONName()
	}
	return "fault"
}

func probeName(p *v1.Probe) string {
	m := p.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("probe")); fd != nil {
		return fd.JSONName()
	}
	return "probe"
}

var (
	// cgroupUnits are the types of units that have a cgroup
	// (systemd.resource-control(5)), otherUnits those that have none.
	cgroupUnits = []string{".service", ".slice", ".scope", ".socket", ".mount", ".swap"}
	otherUnits  = []string{".target", ".timer", ".path", ".device", ".automount", ".snapshot"}
)

// fullUnit adds ".service" to a name without the suffix of a type, as
// systemctl does.
func fullUnit(unit string) string {
	suffix := path.Ext(unit)
	if unit == "" || slices.Contains(cgroupUnits, suffix) || slices.Contains(otherUnits, suffix) {
		return unit
	}
	return unit + ".service"
}
