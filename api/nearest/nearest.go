// Package nearest finds the word that somebody meant.
package nearest

import "strings"

// Word returns the candidate nearest to word, and whether one is near enough to
// be worth suggesting. Differences in case, '-' and '_' count as none.
func Word(word string, candidates []string) (string, bool) {
	best, bestDistance := "", -1
	w := normal(word)
	if w == "" || len(w) > 64 {
		return "", false
	}
	for _, c := range candidates {
		n := normal(c)
		d := distance(w, n)
		if d > limit(w, n) {
			continue
		}
		if bestDistance < 0 || d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best, bestDistance >= 0
}

// limit is the largest distance of words that are still alike.
func limit(a, b string) int {
	n := min(len(a), len(b))
	switch {
	case n <= 2:
		return 0
	case n <= 4:
		return 1
	default:
		return min(n/3, 4)
	}
}

func normal(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours that make a into b (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
