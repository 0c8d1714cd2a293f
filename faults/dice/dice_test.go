package dice

import (
	"math"
	"testing"
	"testing/quick"

	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

const throws = 200_000

// share throws the dice and returns the share of hits and the lag-1
// autocorrelation of the hits.
func share(c Config) (mean, correlation float64) {
	sequence := NewSequence(c)
	hits := make([]float64, throws)
	for i := range hits {
		if sequence.Next() {
			hits[i] = 1
			mean++
		}
	}
	mean /= throws
	var covariance float64
	for i := 1; i < throws; i++ {
		covariance += (hits[i] - mean) * (hits[i-1] - mean)
	}
	return mean, covariance / (throws - 1) / (mean * (1 - mean))
}

func TestModelsHaveTheWantedShareAndCorrelation(t *testing.T) {
	for _, test := range []struct {
		name              string
		loss              *v1.NetworkLoss
		mean, correlation float64
	}{
		{"independent", &v1.NetworkLoss{Percent: 30}, 0.3, 0},
		{"correlated", &v1.NetworkLoss{Percent: 30, Correlation: 75}, 0.3, 0.75},
		// The chain is in the bad state p/(p+r) of the time, and its states are
		// correlated by 1-p-r (Gilbert 1960).
		{"gilbert", &v1.NetworkLoss{GilbertElliott: &v1.GilbertElliott{P: 5, R: 20}}, 0.2, 0.75},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c Config
			c.Probability = Always
			c.Seed = 1
			c.Lose(test.loss)
			mean, correlation := share(c)
			// Six standard deviations of a share of correlated throws.
			deviation := math.Sqrt(test.mean * (1 - test.mean) / throws * (1 + test.correlation) / (1 - test.correlation))
			if math.Abs(mean-test.mean) > 6*deviation {
				t.Errorf("share %.4f, want %.4f", mean, test.mean)
			}
			if math.Abs(correlation-test.correlation) > 0.02 {
				t.Errorf("correlation %.3f, want %.3f", correlation, test.correlation)
			}
		})
	}
}

func TestRateGoesInItsOrder(t *testing.T) {
	c := New(1, &v1.Fault{Rate: &v1.Rate{Skip: proto.Uint64(10), Every: proto.Uint64(3), First: proto.Uint64(4)}})
	sequence := NewSequence(c)
	var hits []int
	for i := range 100 {
		if sequence.Next() {
			hits = append(hits, i)
		}
	}
	want := []int{12, 15, 18, 21}
	if len(hits) != len(want) {
		t.Fatalf("hits %v, want %v", hits, want)
	}
	for i := range want {
		if hits[i] != want[i] {
			t.Fatalf("hits %v, want %v", hits, want)
		}
	}
}

func TestThresholdsAreBounded(t *testing.T) {
	for probability, want := range map[float64]uint64{0: 0, 1: Always, 0.5: Always / 2, -1: 0, 2: Always} {
		if got := Threshold(probability); got != want {
			t.Errorf("Threshold(%v) = %d, want %d", probability, got, want)
		}
	}
}

func TestStreamsAndNamesAreIndependent(t *testing.T) {
	err := quick.Check(func(seed, ordinal uint64) bool {
		a, b := Random(seed, ordinal, StreamModel), Random(seed, ordinal, StreamRate)
		return a != b && Random(seed, ordinal, StreamModel) == a
	}, nil)
	if err != nil {
		t.Error(err)
	}
	if Derive(1, "a") == Derive(1, "b") || Derive(1, "a") == Derive(2, "a") {
		t.Error("derived seeds don't depend on seed and name")
	}
}
