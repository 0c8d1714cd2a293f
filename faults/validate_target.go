package faults

import (
	"path"
	"regexp"
	"slices"
	"strings"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/check"
	"faultline.dev/faultline/faults/fault"
)

// validateTarget returns paths relative to the target. kind may be empty.
func validateTarget(target *v1.Target, kind fault.Kind) []fault.Problem {
	var p check.Problems
	switch t := target.GetTarget().(type) {
	case nil:
		p.Add("", "no target is given; give one of cgroup, systemdUnit, pid, container, pod, host")
	case *v1.Target_Cgroup:
		validateCgroup(&p, t.Cgroup)
	case *v1.Target_SystemdUnit:
		validateUnit(&p, t.SystemdUnit)
	case *v1.Target_Pid:
		switch {
		case t.Pid <= 0:
			p.Add("pid", "is %d; give the id of a process, above 0", t.Pid)
		case t.Pid == 1:
			p.Add("pid", "is 1, which is protected: it is the system's first process")
		}
	case *v1.Target_Container:
		if t.Container == "" || !printable(t.Container) || strings.ContainsAny(t.Container, " /") {
			p.Add("container", "%q is neither the id nor the name of a container", t.Container)
		}
	case *v1.Target_Pod:
		validatePod(&p, t.Pod)
	case *v1.Target_Host:
		if !t.Host {
			p.Add("host", "is false; write true, or give another target")
		} else if kind.Name != "" && kind.Scope != fault.ScopeHost {
			p.Add("host", "%s is confined to a %s; it never takes the whole machine", kind.Name, kind.Scope)
		}
	}
	validatePick(&p, target.GetPick())
	if target.GetFollow() {
		p.Add("follow", "is %s; leave it out (cgroups inside the target's belong to it in any case)", fault.ErrNotBuilt)
	}
	return p.List()
}

func validateCgroup(p *check.Problems, name string) {
	switch {
	case name == "":
		p.Add("cgroup", "is empty; give a path such as /shop/checkout")
	case slices.Contains(strings.Split(name, "/"), ".."):
		p.Add("cgroup", `%q holds ".."; write the path without`, name)
	case path.Clean("/"+name) == "/":
		p.Add("cgroup", "%q is the root cgroup, which holds every process; name one below it", name)
	default:
		p.AbsolutePath("cgroup", name)
	}
}

// unitName follows systemd.unit(5); the suffix is checked on its own.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,255}$`)

func validateUnit(p *check.Problems, unit string) {
	full := fullUnit(unit)
	switch suffix := path.Ext(full); {
	case unit == "":
		p.Add("systemdUnit", "is empty; give the name of a unit such as checkout.service")
	case !unitName.MatchString(full) || strings.TrimSuffix(full, suffix) == "":
		p.Add("systemdUnit", "%q is not the name of a unit; allowed are letters, digits and :-_.\\@, as in checkout.service", unit)
	case !slices.Contains(cgroupUnits, suffix):
		p.Add("systemdUnit", "%q has no processes; allowed are units of %s", unit, strings.Join(cgroupUnits, ", "))
	case full == "-.slice":
		p.Add("systemdUnit", `"-.slice" is the root slice, which holds every process; name one below it`)
	case full == "init.scope":
		p.Add("systemdUnit", `"init.scope" is protected: it holds the system's first process`)
	}
}

func validatePod(p *check.Problems, pod *v1.PodTarget) {
	if pod.GetNamespace() == "" {
		p.Add("pod.namespace", "is missing; give the namespace of the pods")
	}
	if pod.GetName() == "" && len(pod.GetLabels()) == 0 {
		p.Add("pod", "name and labels are missing; give one, or all pods of the namespace would be hit")
	}
	validateLabels(p, "pod.labels", pod.GetLabels())
}

func validatePick(p *check.Problems, pick *v1.Pick) {
	if pick == nil {
		return
	}
	switch c := pick.GetPick().(type) {
	case nil:
		p.Add("pick", "is empty; give one of all, count, percent, or leave it out for all")
	case *v1.Pick_All:
		if !c.All {
			p.Add("pick.all", "is false; write true, or give count or percent")
		}
	case *v1.Pick_Count:
		if c.Count == 0 {
			p.Add("pick.count", "is 0; allowed is 1 and more")
		}
	case *v1.Pick_Percent:
		if !(c.Percent > 0 && c.Percent <= 100) {
			p.Add("pick.percent", "is %v; allowed is above 0, at most 100", c.Percent)
		}
	}
}
