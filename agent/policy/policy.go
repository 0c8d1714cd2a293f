// Package policy reads what the owner of a node allows, whatever a document or
// a control plane asks for.
package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"faultline.dev/faultline/api/units"
)

// ErrInvalid means that the policy file can't be used, so that nothing is allowed.
var ErrInvalid = errors.New("policy can't be used")

// Policy is what a node allows. The zero value allows all that documents may
// ask for.
type Policy struct {
	// MaxLeaseTimeout is the longest leaseTimeout; 0 for no limit of the
	// node's own.
	MaxLeaseTimeout time.Duration
}

// file is a policy as it is written.
type file struct {
	MaxLeaseTimeout *duration `yaml:"maxLeaseTimeout"`
}

// duration is read with the units of documents.
type duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *duration) UnmarshalYAML(node *yaml.Node) error {
	v, err := units.ParseDuration(node.Value)
	if err == nil && v <= 0 {
		err = fmt.Errorf("%q is not above 0", node.Value)
	}
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*d = duration(v)
	return nil
}

// Load reads a policy file. Without a file everything is allowed. A file that
// others than root may write, or that holds anything unknown, is an error that
// matches [ErrInvalid]: it is never taken for half of what it says.
func Load(path string) (Policy, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Policy{}, nil
	}
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	defer f.Close()
	p, err := read(f)
	if err != nil {
		return Policy{}, fmt.Errorf("%w: %s: %w", ErrInvalid, path, err)
	}
	return p, nil
}

func read(f *os.File) (p Policy, err error) {
	st, err := f.Stat()
	if err != nil {
		return p, err
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		return p, fmt.Errorf("belongs to user %d; it must belong to root: chown root", owner)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return p, fmt.Errorf("has mode %#o; nobody but root may write it: chmod go-w", st.Mode().Perm())
	}
	decoder := yaml.NewDecoder(f)
	decoder.KnownFields(true)
	var content file
	if err := decoder.Decode(&content); err != nil && !errors.Is(err, io.EOF) {
		return p, err
	}
	if content.MaxLeaseTimeout != nil {
		p.MaxLeaseTimeout = time.Duration(*content.MaxLeaseTimeout)
	}
	return p, nil
}
