// Package stat compares what was measured with the distribution that was asked
// for, and two measurements with each other.
package stat

import (
	"math"
	"slices"
)

// Distance is the Kolmogorov-Smirnov distance between the samples and a
// distribution: the largest difference between the share of samples up to x and
// cdf(x). It is exact where cdf jumps too. The distance is that of chance in all
// but a share level of cases as long as it is below Critical(level, n).
func Distance(samples []float64, cdf func(x float64) float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	n := float64(len(sorted))
	distance := 0.0
	for i, x := range sorted {
		// Among equal samples the first counts just before x, the last at x.
		if i == 0 || sorted[i-1] != x {
			distance = max(distance, math.Abs(float64(i)/n-cdf(math.Nextafter(x, math.Inf(-1)))))
		}
		if i+1 == len(sorted) || sorted[i+1] != x {
			distance = max(distance, math.Abs(float64(i+1)/n-cdf(x)))
		}
	}
	return distance
}

// DistanceBetween is the Kolmogorov-Smirnov distance between two samples: the
// largest difference between their shares up to any x. Its critical value is
// Critical(level, Pooled(len(a), len(b))): for 20,000 samples each 0.0163 at the
// 1 percent level and 0.0136 at 5 percent; for 5,000 each 0.0326 and 0.0272.
//
// Two measurements of delays differ by their overhead too: by up to overhead *
// the largest density. With an overhead of 0.1 ms more here than there a normal
// jitter of 10 ms adds 0.004. Subtract the medians of a measurement without
// delay before.
func DistanceBetween(a, b []float64) float64 {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	distance, i, j := 0.0, 0, 0
	for i < len(a) && j < len(b) {
		x := min(a[i], b[j])
		for i < len(a) && a[i] == x {
			i++
		}
		for j < len(b) && b[j] == x {
			j++
		}
		distance = max(distance, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return distance
}

// Critical is the distance that n independent samples exceed by chance in a
// share level of cases, by the first term of Kolmogorov's series: 1.628/sqrt(n)
// for 0.01, 1.358/sqrt(n) for 0.05. It is good to three digits for n above 100
// and levels below 0.1, and errs on the safe side for distributions that jump.
func Critical(level, n float64) float64 {
	return math.Sqrt(math.Log(2/level) / 2 / n)
}

// Pooled is the n of Critical for two samples of that many.
func Pooled(a, b float64) float64 { return a * b / (a + b) }

// Effective is the n of Critical for n samples in a row of which each repeats
// the one before with the probability correlation, and is drawn anew
// otherwise. Two samples that are k apart are the same draw with the
// probability correlation^k and independent else, whatever the distribution,
// so that the covariance of any two shares of the samples is that of
// independent ones times 1 + 2 (c + c^2 + ...) = (1+c)/(1-c).
func Effective(n int, correlation float64) float64 {
	return float64(n) * (1 - correlation) / (1 + correlation)
}

// Autocorrelation is the correlation of each sample with the one lag before.
func Autocorrelation(samples []float64, lag int) float64 {
	mean := 0.0
	for _, x := range samples {
		mean += x / float64(len(samples))
	}
	var variance, covariance float64
	for i, x := range samples {
		variance += (x - mean) * (x - mean)
		if i >= lag {
			covariance += (x - mean) * (samples[i-lag] - mean)
		}
	}
	return covariance / variance
}
