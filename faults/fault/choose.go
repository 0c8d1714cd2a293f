package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"faultline.dev/faultline/faults/kernel"
)

// Choose returns the mechanism that the request names, or the first of ladder
// that works here. The error says of each what is missing and what would help.
func Choose(ctx context.Context, req Request, kind Kind, ladder ...string) (string, error) {
	named := req.Spec.GetMechanism()
	if named != "" && named != "auto" {
		ladder = []string{named}
	}
	var reasons []string
	for _, name := range ladder {
		i := slices.IndexFunc(kind.Mechanisms, func(m Mechanism) bool { return m.Name == name })
		if i < 0 {
			return "", fmt.Errorf("%s has no mechanism %q", kind.Name, name)
		}
		answer := kind.Mechanisms[i].Probe(ctx, req.Prober)
		if answer.OK() {
			return name, nil
		}
		reason := fmt.Sprintf("%s: %s", name, answer.Reason)
		if answer.Remedy != "" {
			reason += " (" + answer.Remedy + ")"
		}
		reasons = append(reasons, reason)
	}
	return "", fmt.Errorf("%s is %w: %s", kind.Name, ErrUnavailable, strings.Join(reasons, "; "))
}

// Probe asks for everything that the mechanism needs, and answers with the
// first that is not there.
func (m Mechanism) Probe(ctx context.Context, prober *kernel.Prober) kernel.Answer {
	for _, need := range m.Needs {
		if answer := prober.Probe(ctx, need); !answer.OK() {
			return answer
		}
	}
	return kernel.Answer{Available: kernel.Yes}
}
