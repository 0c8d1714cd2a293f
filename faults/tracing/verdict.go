package tracing

import "slices"

// lanes is how many programs deliver verdicts at a function. One that a task was
// preempted in is not free for others on its CPU, for as long as that lasts.
const lanes = 4

// deliverProgram is fl_deliver of bpf/include/verdict.h.
const deliverProgram = "fl_deliver"

// Delivered are the hooks in the place of one whose program stands in a trampoline, on
// a kernel that preempts (kernel.Preempts): its Program, a kprobe, decides, and others
// deliver.
func (h Hook) Delivered() []Hook {
	deliver, decide := h, h
	deliver.Program, deliver.Variables, deliver.Alone = deliverProgram, nil, false
	decide.ID, decide.Alone = 0, false
	return append(slices.Repeat([]Hook{deliver}, lanes), decide)
}

// Decides tells the programs that look at a call from those that do what was decided.
func Decides(program string) bool {
	return program != deliverProgram && program != sleepProgram && program != sleepLSMProgram
}
