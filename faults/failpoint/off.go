//go:build !privileged

package failpoint

// Hit does nothing.
func Hit(Name) {}
