// Package socket holds the faults of socket calls.
package socket

import "faultline.dev/faultline/faults/fault"

// Kinds are the kinds of the family, in the order of the contract.
func Kinds() []fault.Kind { return []fault.Kind{Error()} }
