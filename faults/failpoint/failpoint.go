// Package failpoint names the moments in which a test lets the process die:
// before and after each step that puts a fault in place or takes it back.
//
// Only test builds (build tag privileged) have them; elsewhere Hit is empty.
package failpoint

// Name is a moment. Tests go through all of them, and fail for one that is
// never reached.
type Name string

// The moments, in the order of a run's life.
const (
	// GuardReady: the guard watches, nothing is recorded.
	GuardReady Name = "guard-ready"
	// RecordWritten: the record is in the file, perhaps not on the disk.
	RecordWritten Name = "record-written"
	// Recorded: it is on the disk, nothing is touched.
	Recorded Name = "recorded"
	// ClsactAdded: the qdisc is there, the filter not.
	ClsactAdded Name = "clsact-added"
	// FilterAdded: a packet filter is at an interface, idle.
	FilterAdded Name = "filter-added"
	// TCXAttached: a tcx link is at an interface, idle, not pinned.
	TCXAttached Name = "tcx-attached"
	// CgroupAttached: a program is at a cgroup, idle, not pinned.
	CgroupAttached Name = "cgroup-attached"
	// FunctionAttached: a program is at a function of the kernel, idle.
	FunctionAttached Name = "function-attached"
	// QdiscRecorded: the undo of a root qdisc is recorded, nothing is touched.
	QdiscRecorded Name = "qdisc-recorded"
	// QdiscReplaced: the root of an interface is ours, or one queue of it.
	QdiscReplaced Name = "qdisc-replaced"
	// QdiscRestored: what was at the root is there again, or a part of it.
	QdiscRestored Name = "qdisc-restored"
	// IFBMade: an ifb device is there, and nothing leads to it.
	IFBMade Name = "ifb-made"
	// Steered: a filter that leads to the device is at an interface, idle.
	Steered Name = "steered"
	// Unsteered: these filters are gone, the device is still there.
	Unsteered Name = "unsteered"
	// PinDirMade: the directory for pins is there and empty.
	PinDirMade Name = "pin-dir-made"
	// Pinned: some object is pinned, the directory has its temporary name.
	Pinned Name = "pinned"
	// PinsCommitted: the directory has its name.
	PinsCommitted Name = "pins-committed"
	// Injected: a fault is in place, idle.
	Injected Name = "injected"
	// FileWritten: a cgroup's file has the fault's value.
	FileWritten Name = "file-written"
	// Started: a fault is active.
	Started Name = "started"
	// Held: its time is over, nothing is taken back.
	Held Name = "held"
	// Undoing: a record is about to be undone.
	Undoing Name = "undoing"
	// Undone: it is undone, and not yet noted.
	Undone Name = "undone"
	// Noted: it is noted.
	Noted Name = "noted"
	// Reverted: a fault is taken back.
	Reverted Name = "reverted"
	// Closing: everything is taken back, the journal is there.
	Closing Name = "closing"
	// Renamed: the journal's directory has its last name.
	Renamed Name = "renamed"
	// Closed: it is gone, the guard not dismissed.
	Closed Name = "closed"
	// Orphaned: a guard has seen that its run's process is dead.
	Orphaned Name = "orphaned"
)

// All lists the moments.
var All = []Name{
	GuardReady, RecordWritten, Recorded, ClsactAdded, FilterAdded, TCXAttached, CgroupAttached, FunctionAttached, QdiscRecorded, QdiscReplaced, QdiscRestored,
	IFBMade, Steered, Unsteered, PinDirMade, Pinned, PinsCommitted, Injected, FileWritten, Started, Held, Undoing, Undone, Noted, Reverted, Closing, Renamed, Closed, Orphaned,
}
