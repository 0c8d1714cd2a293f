// Package event is what a guest of the power cuts tells the machine, one JSON value
// on each line of its standard output.
package event

// Kind says what happened.
type Kind string

// The kinds, in the order in which a boot tells them.
const (
	// Reverting: what the last cut left is about to be undone.
	Reverting Kind = "reverting"
	// Clean: everything is undone and was looked at.
	Clean Kind = "clean"
	// Loaded: faults and changes to files are in the middle of their lives.
	Loaded Kind = "loaded"
	// Failed: something is not as it must be; Text says what.
	Failed Kind = "failed"
	// Proved: what the disk kept of the proof.
	Proved Kind = "proved"
)

// Event is one line.
type Event struct {
	Kind Kind `json:"kind"`
	// Found is with Reverting.
	Found *Found `json:"found,omitempty"`
	// Undone is with Clean: records that were closed.
	Undone int `json:"undone,omitempty"`
	// Proof is with Proved.
	Proof *Proof `json:"proof,omitempty"`
	Text  string `json:"text,omitempty"`
}

// Found is what is on the disk after a cut.
type Found struct {
	Runs []Run `json:"runs,omitempty"`
	// Files are there that an undone change has taken away.
	Files []string `json:"files,omitempty"`
	// Settings do not have the value that they had before they were changed.
	Settings []string `json:"settings,omitempty"`
	// Unfinished are directories that a run made before it was one, or on its
	// way out.
	Unfinished []string `json:"unfinished,omitempty"`
}

// Run is a run that the cut ended.
type Run struct {
	Dir string `json:"dir"`
	// Open are the records that wait to be undone, by kind and description.
	Open []string `json:"open,omitempty"`
	Torn bool     `json:"torn,omitempty"`
	// Error is what can't be read.
	Error string `json:"error,omitempty"`
	// Journal is the file itself.
	Journal []byte `json:"journal,omitempty"`
}

// Proof is what became of two blocks that were written.
type Proof struct {
	Flushed   bool `json:"flushed"`
	Unflushed bool `json:"unflushed"`
}
