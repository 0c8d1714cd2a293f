package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a policy belongs to root")
	}
	for _, test := range []struct {
		name, text string
		mode       os.FileMode
		want       time.Duration
		message    string
	}{
		{"a limit", "maxLeaseTimeout: 20s\n", 0o644, 20 * time.Second, ""},
		{"empty", "", 0o600, 0, ""},
		{"unknown field", "maxLeaseTimeout: 20s\nmaxLease: 1s\n", 0o644, 0, "line 2: field maxLease not found"},
		{"no unit", "\nmaxLeaseTimeout: 20\n", 0o644, 0, "line 2: "},
		{"nothing", "maxLeaseTimeout: 0s\n", 0o644, 0, "not above 0"},
		{"writable by others", "", 0o666, 0, "chmod go-w"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "policy.yaml")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			p, err := Load(path)
			if test.message == "" {
				if err != nil || p.MaxLeaseTimeout != test.want {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.message) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v", err)
			}
		})
	}
	if p, err := Load(filepath.Join(t.TempDir(), "none")); err != nil || p != (Policy{}) {
		t.Errorf("without a file: %+v, %v", p, err)
	}
}
