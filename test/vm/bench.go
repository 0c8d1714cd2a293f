// Package vm holds the kernel test bench's list of kernels. The bench itself
// is the command test/vm/run; its README.md beside this file says how it works.
package vm

import _ "embed"

// KernelsYAML is kernels.yaml, the one list of kernels that the tests run on.
// Package kernels reads it.
//
//go:embed kernels.yaml
var KernelsYAML []byte
