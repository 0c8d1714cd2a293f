//go:build linux

package env

import (
	"errors"
	"testing"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/vm/kernels"
)

// EachMechanism runs a test with every mechanism of a kind that the kernel has. One that
// it lacks is skipped, or fails where the kernel is declared to have it.
func EachMechanism(t *testing.T, kind fault.Kind, test func(t *testing.T, mechanism string)) {
	t.Helper()
	for _, m := range kind.Mechanisms {
		t.Run(m.Name, func(t *testing.T) {
			t.Helper()
			prober := Prober(t)
			for _, need := range m.Needs {
				if answer := prober.Probe(t.Context(), need); !answer.OK() {
					kernels.Missing(t, string(need), errors.New(answer.Reason))
				}
			}
			test(t, m.Name)
		})
	}
}
