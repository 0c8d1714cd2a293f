package file

import (
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func compiled(t testing.TB, pattern string) *matcher {
	t.Helper()
	m, err := compile(split(pattern))
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	return m
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern  string
		yes, not []string
	}{
		{"/**", []string{"", "a", "a/b", ".x/.y"}, nil},
		{"/a/**", []string{"a", "a/b", "a/b/c"}, []string{"", "b", "ab", "b/a"}},
		{"/**/a", []string{"a", "b/a", "b/c/a"}, []string{"", "b", "a/b", "ba"}},
		{"/a/**/z", []string{"a/z", "a/b/z", "a/z/z"}, []string{"a", "z", "a/zz"}},
		{"/*.log", []string{"x.log", ".log", "a.b.log"}, []string{"log", "x.log.1", "d/x.log"}},
		{"/a*b*c", []string{"abc", "axxbyyc", "abbc", "abcbc"}, []string{"ab", "ac", "abcd"}},
		{"/?", []string{"a", "."}, []string{"", "ab"}},
		{"/[a-c]x", []string{"ax", "cx"}, []string{"dx", "x", "[a-c]x"}},
		{"/[^a-c]x", []string{"dx"}, []string{"ax"}},
		{`/\*`, []string{"*"}, []string{"a", `\*`}},
		{"/**/**/a/**", []string{"a", "x/a/y"}, []string{"x"}},
		{"/*/b", []string{"a/b"}, []string{"b", "a/a/b"}},
	} {
		m := compiled(t, tt.pattern)
		for _, names := range tt.yes {
			if !m.matches(split(names)) {
				t.Errorf("%s does not match %q", tt.pattern, names)
			}
		}
		for _, names := range tt.not {
			if m.matches(split(names)) {
				t.Errorf("%s matches %q", tt.pattern, names)
			}
		}
	}
}

func TestPatternsThatAreTooLong(t *testing.T) {
	for _, pattern := range []string{
		strings.Repeat("/a", 17),
		"/" + strings.Repeat("x", 64),
		"/" + strings.Repeat("x", 40) + "/" + strings.Repeat("y", 40),
	} {
		if _, err := compile(split(pattern)); err == nil {
			t.Errorf("%s is taken", pattern)
		}
	}
	m := compiled(t, "/"+strings.Repeat("x", 63))
	if !m.matches([]string{strings.Repeat("x", 63)}) || m.matches([]string{strings.Repeat("x", 62)}) {
		t.Error("63 characters are not matched")
	}
}

// upwards is what the programs do: from the file to the directory.
func (m *matcher) upwards(names []string) bool {
	reach := m.all() | m.all()>>1&m.Any
	for _, name := range slices.Backward(names) {
		active := m.Begin
		for i := range len(name) {
			active = active<<1&m.Fit[name[i]] | active&m.Stay
		}
		up := reach & m.Any
		for i := range m.Components {
			up |= uint32(active>>m.End[i]&1) << i & (reach >> 1) &^ m.Any
		}
		reach = up | up>>1&m.Any
	}
	return reach&m.begin() != 0
}

// slowly matches component by component, as path.Match does.
func slowly(components, names []string) bool {
	switch {
	case len(components) == 0:
		return len(names) == 0
	case components[0] == anyNames:
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

func TestMatchingIsThatOfPathMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		component := rapid.OneOf(rapid.StringMatching(`[ab*?]{1,6}`), rapid.Just(anyNames), rapid.StringMatching(`\[\^?[a-c]-c\][ab]?`))
		var components []string
		for _, c := range rapid.SliceOfN(component, 0, 8).Draw(t, "components") {
			if c != anyNames {
				c = strings.ReplaceAll(c, "**", "*")
			}
			components = append(components, c)
		}
		components = split("/" + strings.Join(components, "/"))
		m, err := compile(components)
		if err != nil {
			t.Fatal(err)
		}
		names := rapid.SliceOfN(rapid.StringMatching(`[abc]{1,6}`), 0, 6).Draw(t, "names")
		want := slowly(components, names)
		if m.matches(names) != want || m.upwards(names) != want {
			t.Fatalf("%q and %q: down %v, up %v, want %v", components, names, m.matches(names), m.upwards(names), want)
		}
	})
}
