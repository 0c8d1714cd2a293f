// Package qdisc gives the egress of an interface the qdisc fq, which holds each
// packet until the time in its stamp (tc-fq(8)), for as long as faults delay
// packets there, and puts back exactly what was there before.
//
// What is replaced and how it comes back:
//
//   - What the kernel has made by default (handle 0:) can't be made with that
//     handle by anybody else. When a root of ours is deleted the kernel makes
//     its default anew (attach_default_qdiscs); [Look] refuses where that would
//     be of another kind by now.
//   - What somebody has made explicitly is made again, from the options that the
//     kernel had dumped, with its handles, and compared.
//   - mq keeps one queue for each of the hardware: ours is an mq too, with an
//     fq in each place. A default child of mq can't be given back: deleting what
//     has replaced it leaves a hole in which packets vanish (mq_graft), and in
//     an mq with handle 0: none can be replaced. So it is always the whole tree
//     that is replaced.
//   - An fq that is there already is used as it is.
//
// Everything else (htb, prio, tbf, netem, cake, ...), and what can't be read
// back completely (filters, estimators, size tables), is refused.
//
// # Whose is it
//
// A root of ours has the handle [MarkDefault] or [MarkExplicit]. Several faults,
// also of different processes, share it. It is removed with the last that uses
// it, and nobody counts: a count would be wrong after the first kill -9. What
// uses it is seen at the interface itself. It is a program at the egress, in a
// TCX link or a cls_bpf filter, whose name begins with [ProgramTCX] or
// [ProgramCls], and whose lease (map fl_lease) either
//
//   - ends in the future, or
//   - is 0, and some process has the program open: its fault is about to begin.
//
// A process that is frozen, or dead but for a filter or a pin, keeps its program
// at the interface; its lease ends. For this to be right each fault goes
// in one order, and takes back in the other: record its undo ([Reserve]), attach
// its program, only then rely on fq ([Hold.Make]), only then start. So whoever
// removes fq either sees the program, or is seen to have removed fq by Make,
// which makes it again; and whoever is seen has a record, so that it will come
// by to remove fq. An undo first takes the programs of its own fault off the
// interface: of two that end at once the later one sees nobody. All of this
// happens under [netns.Namespace.Exclusively].
//
// What was before a [MarkExplicit] has to be known to all who share it, as each
// may be the last. Each binds a map with it to its program (BPF_PROG_BIND_MAP),
// where the next one finds it.
//
// # Without fq
//
// [ReserveEmulation] puts a prio there instead, [MarkEmulated], with netem or tbf in
// one of its classes. No program is at the interface: one at the cgroup writes the
// class on a packet. The root is one fault's alone, and whoever has a program open
// that leads there ([ProgramSteer], with the same map bound to it) needs it.
package qdisc
