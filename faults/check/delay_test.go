package check

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func TestATableGoesInsteadOfADistribution(t *testing.T) {
	delay, jitter := durationpb.New(time.Second), durationpb.New(time.Millisecond)
	for name, test := range map[string]struct {
		spec Delayer
		want []string
	}{
		"table":        {&v1.NetworkLatency{Delay: delay, Jitter: jitter, Table: "far.dist", Correlation: 25}, nil},
		"distribution": {&v1.NetworkLatency{Delay: delay, Jitter: jitter, Distribution: v1.Distribution_PARETO}, nil},
		"both": {
			&v1.NetworkLatency{Delay: delay, Jitter: jitter, Table: "far.dist", Distribution: v1.Distribution_NORMAL},
			[]string{"table: goes instead of distribution; give one of them"},
		},
		"without jitter": {
			&v1.NetworkLatency{Delay: delay, Table: "far.dist"},
			[]string{"table: has no meaning without jitter"},
		},
		"no path": {
			&v1.NetworkLatency{Delay: delay, Jitter: jitter, Table: "a\x00b"},
			[]string{`table: "a\x00b" holds a NUL`},
		},
		"kind without tables": {&v1.SyscallDelay{Delay: delay, Jitter: jitter}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var p Problems
			p.Delay(test.spec, false)
			var got []string
			for _, problem := range p.List() {
				got = append(got, problem.Error())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
