package stat

import (
	"math"
	"math/rand/v2"
	"testing"
)

func uniform(x float64) float64 { return min(max(x, 0), 1) }

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestDistanceLooksAtBothSidesOfEachSample(t *testing.T) {
	// At 0.7 all three samples are below, and 0.7 of the distribution.
	near(t, "distance above", Distance([]float64{0.7, 0.1, 0.4}, uniform), 0.3, 1e-9)
	// Just before 0.9 no sample is below, and 0.9 of the distribution.
	near(t, "distance below", Distance([]float64{0.9, 0.95}, uniform), 0.9, 1e-9)
	// Half of it at 0, half at 1: the samples are just that.
	coin := func(x float64) float64 {
		switch {
		case x < 0:
			return 0
		case x < 1:
			return 0.5
		default:
			return 1
		}
	}
	near(t, "distance of a distribution that jumps", Distance([]float64{1, 0, 0, 1}, coin), 0, 1e-9)
	near(t, "distance of a coin that is not fair", Distance([]float64{1, 0, 0, 0}, coin), 0.25, 1e-9)
}

func TestDistanceBetweenSamples(t *testing.T) {
	near(t, "distance of equal samples", DistanceBetween([]float64{2, 1, 2}, []float64{1, 2, 2}), 0, 0)
	near(t, "distance of separate samples", DistanceBetween([]float64{1, 2}, []float64{3, 4, 5}), 1, 0)
	near(t, "distance of mixed samples", DistanceBetween([]float64{1, 2, 3, 4}, []float64{2, 2, 5, 6}), 0.5, 1e-9)
}

func TestCriticalValuesAreThoseOfTheTables(t *testing.T) {
	near(t, "1 percent of 10,000", Critical(0.01, 10_000), 0.016276, 1e-6)
	near(t, "5 percent of 10,000", Critical(0.05, 10_000), 0.013581, 1e-6)
	near(t, "pooled", Pooled(20_000, 20_000), 10_000, 0)
}

// What the values promise is counted: of 1,000 rows of chance alone the share
// level is beyond them, also for rows that repeat themselves.
func TestChanceExceedsTheCriticalValueAsOftenAsItShould(t *testing.T) {
	const rows, n, level = 1000, 1000, 0.05
	for _, correlation := range []float64{0, 0.25, 0.75} {
		random := rand.New(rand.NewPCG(1, 2))
		row := func() []float64 {
			samples := make([]float64, n)
			for i := range samples {
				if i > 0 && random.Float64() < correlation {
					samples[i] = samples[i-1]
				} else {
					samples[i] = random.Float64()
				}
			}
			return samples
		}
		limit := Critical(level, Effective(n, correlation))
		limitBetween := Critical(level, Effective(n, correlation)/2)
		beyond, beyondBetween, lag1 := 0, 0, 0.0
		for range rows {
			samples := row()
			if Distance(samples, uniform) > limit {
				beyond++
			}
			if DistanceBetween(samples, row()) > limitBetween {
				beyondBetween++
			}
			lag1 += Autocorrelation(samples, 1) / rows
		}
		// Four deviations of a count are 28; small rows stay somewhat below.
		near(t, "rows beyond", float64(beyond), rows*level, 30)
		near(t, "pairs of rows beyond", float64(beyondBetween), rows*level, 30)
		near(t, "correlation", lag1, correlation, 0.01)
	}
}
