// Package kernels reads test/vm/kernels.yaml, the list of kernels that the tests
// run on, and tells a test what the kernel it runs on is declared to support.
//
// A test that needs a capability probes for it and, when the probe says no, asks
// Missing: on a kernel that is declared to support it that is a failure, elsewhere
// a skip.
package kernels

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"

	"faultline.dev/faultline/test/vm"
)

// Variable is the environment variable that holds the id of the kernel which
// the bench booted. It is not set outside of the bench.
const Variable = "FAULTLINE_TEST_KERNEL"

// ErrUnknown says that no kernel of the list has an id.
var ErrUnknown = errors.New("unknown kernel")

// Kernel is one entry of kernels.yaml.
type Kernel struct {
	ID string `yaml:"id"`
	// Debian or EI says where the kernel is from.
	Debian *Debian `yaml:"debian"`
	EI     *EI     `yaml:"ei"`
	// Capabilities are the names of what tests may rely on.
	Capabilities []string `yaml:"capabilities"`
	// Elsewhere are the folders of the module whose tests run on other kernels
	// of the list only.
	Elsewhere []string `yaml:"elsewhere"`
	// Sample are the tests of these folders that run here all the same.
	Sample []string `yaml:"sample"`
}

// Debian is a stock kernel package.
type Debian struct {
	Suite   string `yaml:"suite"`
	Package string `yaml:"package"` // the meta package
}

// EI is a kernel with function error injection.
type EI struct {
	Image   string `yaml:"image"`   // file name in the folder of ready kernels
	Suite   string `yaml:"suite"`   // of the package to build from
	Package string `yaml:"package"` // linux-source-VERSION
}

// Supports says whether a capability is declared for the kernel.
func (k Kernel) Supports(capability string) bool {
	return slices.Contains(k.Capabilities, capability)
}

// All returns the list in the order of the file.
func All() []Kernel { return list() }

var list = sync.OnceValue(func() []Kernel {
	kernels, err := Parse(vm.KernelsYAML)
	if err != nil {
		// The file is embedded and a test reads it: this is never a user's error.
		panic(err)
	}
	return kernels
})

// Parse reads a list of kernels, strictly.
func Parse(document []byte) ([]Kernel, error) {
	var file struct {
		Kernels []Kernel `yaml:"kernels"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, fmt.Errorf("reading the list of kernels: %w", err)
	}
	seen := map[string]bool{}
	for i, k := range file.Kernels {
		switch {
		case k.ID == "":
			return nil, fmt.Errorf("kernel %d has no id", i+1)
		case seen[k.ID]:
			return nil, fmt.Errorf("kernel %s is listed twice", k.ID)
		case (k.Debian == nil) == (k.EI == nil):
			return nil, fmt.Errorf("kernel %s needs one of debian and ei", k.ID)
		case k.Debian != nil && (k.Debian.Suite == "" || k.Debian.Package == ""):
			return nil, fmt.Errorf("kernel %s: debian needs suite and package", k.ID)
		case k.EI != nil && (k.EI.Image == "" || k.EI.Suite == "" || k.EI.Package == ""):
			return nil, fmt.Errorf("kernel %s: ei needs image, suite and package", k.ID)
		}
		seen[k.ID] = true
	}
	return file.Kernels, nil
}

// Find returns the kernel with an id, or an error that is ErrUnknown and lists
// the ids.
func Find(id string) (Kernel, error) {
	var ids []string
	for _, k := range All() {
		if k.ID == id {
			return k, nil
		}
		ids = append(ids, k.ID)
	}
	return Kernel{}, fmt.Errorf("%w %q: the list has %s", ErrUnknown, id, strings.Join(ids, ", "))
}

// Current returns the kernel that FAULTLINE_TEST_KERNEL names. Outside of the
// bench the variable is empty and ok is false. An id that is not in the list is
// an error, so that a renamed kernel does not loosen the tests.
func Current() (k Kernel, ok bool, err error) {
	id := os.Getenv(Variable)
	if id == "" {
		return Kernel{}, false, nil
	}
	k, err = Find(id)
	return k, err == nil, err
}

// Missing ends a test whose probe found that the running kernel lacks a
// capability: as failed where kernels.yaml declares it for this kernel, as
// skipped elsewhere, also outside of the bench. why is what the probe said.
func Missing(tb testing.TB, capability string, why error) {
	tb.Helper()
	k, ok, err := Current()
	switch {
	case err != nil:
		tb.Fatal(err)
	case ok && k.Supports(capability):
		tb.Fatalf("%s is declared for %s, but the probe says no: %v", capability, k.ID, why)
	case ok:
		tb.Skipf("%s is not declared for %s: %v", capability, k.ID, why)
	default:
		tb.Skipf("this kernel lacks %s: %v", capability, why)
	}
}
