package cgroupfile

import (
	"fmt"

	"faultline.dev/faultline/faults/fault"
)

// Files claims one file of cgroups. What it holds counts for the cgroups below
// too, so that the same file there is claimed with it.
type Files struct {
	File    string         `json:"file"`
	Cgroups []fault.Cgroup `json:"cgroups"`
}

// FilesKind is the name of Files where claims are stored.
const FilesKind = "cgroup-file"

// Kind implements fault.Claim.
func (Files) Kind() string { return FilesKind }

// Conflict implements fault.Claim.
func (c Files) Conflict(other fault.Claim) string {
	o, ok := other.(Files)
	if !ok || c.File != o.File {
		return ""
	}
	if path := fault.Shared(c.Cgroups, o.Cgroups); path != "" {
		return fmt.Sprintf("%s of cgroup %s", c.File, path)
	}
	return ""
}
