//go:build linux && privileged

package faults_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

// felt are faults, by their kind and mechanism, and a command that one lets fail. @ is a
// file.
var felt = []struct{ kind, mechanism, fields, command string }{
	{"syscallError", "fmod_ret", "{calls: [statfs], errno: EIO}", "stat -f @"},
	{"syscallError", "kprobe_override", "{calls: [statfs], errno: EIO}", "stat -f @"},
	{"syscallError", "lsm", "{calls: [statfs], errno: EIO}", "stat -f @"},
	{"syscallError", "fmod_ret_security", "{calls: [statfs], errno: EIO}", "stat -f @"},
	{"fileError", "lsm", "{operations: [OPEN], path: @, errno: EIO}", "cat @"},
	{"fileError", "fmod_ret_security", "{operations: [OPEN], path: @, errno: EIO}", "cat @"},
	{"fileError", "fmod_ret", "{operations: [FSYNC], path: @, errno: EIO}", "sync @"},
	{"socketError", "cgroup_sock", "{operations: [CONNECT], errno: EIO}", "bash -c ': > /dev/udp/127.0.0.1/9'"},
	{"socketError", "lsm", "{operations: [CONNECT], errno: EIO}", "bash -c ': > /dev/udp/127.0.0.1/9'"},
	{"socketError", "fmod_ret_security", "{operations: [CONNECT], errno: EIO}", "bash -c ': > /dev/udp/127.0.0.1/9'"},
}

// What doctor says of a mechanism is what happens when it is asked for by its name.
func TestDoctorSaysWhatHappens(t *testing.T) {
	network := env.NewLoopback(t)
	for _, name := range []string{"syscallError", "fileError", "socketError"} {
		kind, err := faults.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range kind.Mechanisms {
			i := slices.IndexFunc(felt, func(f struct{ kind, mechanism, fields, command string }) bool {
				return f.kind == name && f.mechanism == m.Name
			})
			if i < 0 {
				t.Errorf("nothing feels %s by %s", name, m.Name)
				continue
			}
			t.Run(name+"/"+m.Name, func(t *testing.T) {
				target := env.Cgroup(t)
				file := t.TempDir() + "/file"
				if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
				works := func() bool {
					t.Helper()
					command := strings.ReplaceAll(felt[i].command, "@", file)
					return env.StartProgram(t, target, network.A, "sh", "-c", command+" >/dev/null 2>&1").Status() == 0
				}
				if !works() {
					t.Fatalf("%s does not work without a fault", felt[i].command)
				}
				spec := &v1.Fault{}
				fields := strings.ReplaceAll(felt[i].fields, "@", file)
				if _, err := document.Unmarshal("fault", []byte(name+": "+fields+"\nmechanism: "+m.Name), spec); err != nil {
					t.Fatal(err)
				}
				answer := m.Probe(t.Context(), env.Prober(t))
				plan, err := env.Plan(t, kind, spec, nil, target)
				if !answer.OK() {
					if !errors.Is(err, fault.ErrUnavailable) || !strings.Contains(err.Error(), answer.Reason) {
						t.Errorf("doctor says %s (%s), the plan %v", answer.Available, answer.Reason, err)
					}
					return
				}
				if err != nil {
					t.Fatalf("doctor says yes, the plan %v", err)
				}
				if plan.Mechanism != m.Name {
					t.Errorf("the plan takes %s", plan.Mechanism)
				}
				injection := env.Begin(t, plan)
				if works() {
					t.Error("doctor says yes, and nothing happens")
				}
				injection.End()
				if !works() {
					t.Error("it does not work afterwards")
				}
			})
		}
	}
}
