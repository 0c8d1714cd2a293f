//go:build !privileged

package main

// isolate does nothing: tests without privileges mount nothing.
func isolate() {}
