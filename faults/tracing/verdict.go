package tracing

import "slices"

// lanes is how many programs deliver verdicts at a function. One that a task was
// preempted in is not free for others on its CPU, for as long as that lasts. With 16
// threads that do nothing but call on 2 CPUs, some were missed with 4 of them in 14 of 450
// runs, and with 8 in none of 660.
const lanes = 8

// deliverProgram is fl_deliver of bpf/include/verdict.h.
const deliverProgram = "fl_deliver"

// Delivered are the hooks in the place of one whose program stands in a trampoline, on
// a kernel that preempts (kernel.Preempts): its Program, a kprobe, decides, and others
// deliver.
func (h Hook) Delivered() []Hook { return h.behind(deliverProgram, lanes) }

// behind are the hook's own program, a probe, and copies of another one in the function's
// trampoline, which the kernel runs behind it.
func (h Hook) behind(program string, copies int) []Hook {
	act, decide := h, h
	act.Program, act.Variables, act.Alone = program, nil, false
	decide.ID, decide.Alone = 0, false
	return append(slices.Repeat([]Hook{act}, copies), decide)
}

// Decides tells the programs that look at a call from those that do what was decided.
func Decides(program string) bool {
	return !slices.Contains([]string{deliverProgram, sleepProgram, sleepLSMProgram, laterProgram}, program)
}
