package glob_test

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"faultline.dev/faultline/faults/glob"
)

func text(t interface{ Fatal(...any) }, pattern string) *glob.Text {
	m, err := glob.NewText(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTexts(t *testing.T) {
	for _, tt := range []struct {
		pattern  string
		yes, not []string
	}{
		{"/a/b", []string{"/a/b"}, []string{"", "/a", "/a/bc", "a/b", "/a//b"}},
		{"a", []string{"a"}, []string{"/a", "./a", "aa"}},
		{"/a/*", []string{"/a/", "/a/x"}, []string{"/a", "/a/x/y"}},
		{"/a/*.log", []string{"/a/.log", "/a/x.log", "/a/x.log.log"}, []string{"/a/x.log1", "/a/b/x.log"}},
		{"/a/**", []string{"/a", "/a/", "/a/b", "/a/b/c"}, []string{"/ab", "/", "b/a"}},
		{"/a/**/z", []string{"/a/z", "/a/b/z", "/a/b/c/z", "/a/z/z"}, []string{"/a/bz", "/a/zz", "/az", "/z"}},
		{"**", []string{"", "/", "a", "/a/b"}, nil},
		{"**/z", []string{"z", "/z", "a/z", "/a/b/z"}, []string{"az", "/a/bz", "z/"}},
		{"**/a/**/z", []string{"a/z", "/a/z", "x/a/y/z"}, []string{"za/z", "a", "z"}},
		{"/?", []string{"/a"}, []string{"/", "//", "/ab"}},
		{"/[^a]x", []string{"/bx"}, []string{"/ax", "//x"}},
		{`/\*[a-c]`, []string{"/*b"}, []string{"/xb", "/*d"}},
	} {
		m := text(t, tt.pattern)
		for _, one := range tt.yes {
			if !m.Matches(one) {
				t.Errorf("%s does not match %q", tt.pattern, one)
			}
		}
		for _, one := range tt.not {
			if m.Matches(one) {
				t.Errorf("%s matches %q", tt.pattern, one)
			}
		}
	}
}

func TestTextsThatAreTooLongOrWrong(t *testing.T) {
	long := strings.Repeat("x", glob.TextMax)
	m := text(t, long)
	if !m.Matches(long) || m.Matches(long[1:]) || m.Matches(long+"x") {
		t.Errorf("%d characters are not matched", glob.TextMax)
	}
	for _, pattern := range []string{long + "x", "[a", `a\`} {
		if _, err := glob.NewText(pattern); err == nil {
			t.Errorf("%q is taken", pattern)
		}
	}
}

func TestTextsAreMatchedAsByPathMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var components []string
		for _, c := range rapid.SliceOfN(rapid.OneOf(
			rapid.StringMatching(`[ab*?]{1,6}`), rapid.Just("**"), rapid.StringMatching(`\[\^?[a-c]-c\][ab]?`), rapid.StringMatching(`a{60,70}`),
		), 1, 5).Draw(t, "components") {
			if c != "**" {
				c = strings.ReplaceAll(c, "**", "*")
				c = strings.ReplaceAll(c, "**", "*")
			}
			components = append(components, c)
		}
		pattern := strings.Join(components, "/")
		m, err := glob.NewText(pattern)
		if err != nil && len(pattern) <= glob.TextMax {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		names := rapid.SliceOfN(rapid.OneOf(rapid.StringMatching(`[abc]{0,6}`), rapid.StringMatching(`a{60,70}`)), 1, 6).Draw(t, "names")
		written := strings.Join(names, "/")
		if got, want := m.Matches(written), slowly(components, names); got != want {
			t.Fatalf("%q and %q: %v, want %v", pattern, written, got, want)
		}
	})
}

// slowly matches component by component, as path.Match does.
func slowly(components, names []string) bool {
	switch {
	case len(components) == 0:
		return len(names) == 0
	case components[0] == "**":
		for i := range len(names) + 1 {
			if slowly(components[1:], names[i:]) {
				return true
			}
		}
		return false
	case len(names) == 0:
		return false
	}
	fits, err := path.Match(components[0], names[0])
	return err == nil && fits && slowly(components[1:], names[1:])
}
