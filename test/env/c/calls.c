/*
 * Makes system calls as it is told, line by line, and counts their results:
 *
 *   native|compat THREADS TIMES NUMBER ARGUMENT...
 *
 * An ARGUMENT that begins with @ points at the text behind it.
 *
 * TIMES is how often each of THREADS threads makes the call. compat goes by the
 * entry of 32-bit processes (int $0x80), whose numbers are others. "fork" before
 * the line has a new process make the calls. The answer is one line of JSON: how
 * often each errno came, by its number; "0" stands for all successes. The signal
 * SIGPIPE is ignored.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ERRORS = 4096, ARGUMENTS = 6, THREADS_MAX = 64, LINE_SIZE = 4096 };

struct order {
	int compat;
	long threads, times, number;
	long arguments[ARGUMENTS];
};

static struct order order;
/* Not on the stack: 32-bit calls have to get there. */
static char line[LINE_SIZE];
/* Shared with the child of a fork. */
static long *counts;

static long native(const struct order *o)
{
	long result = syscall(o->number, o->arguments[0], o->arguments[1], o->arguments[2],
			      o->arguments[3], o->arguments[4], o->arguments[5]);

	return result == -1 ? -errno : result;
}

static long compat(const struct order *o)
{
#ifdef __x86_64__
	long result;

	/* r8 to r11 are lost. */
	__asm__ volatile("push %%rbp\n\tmov %[sixth], %%ebp\n\tint $0x80\n\tpop %%rbp"
			 : "=a"(result)
			 : "a"(o->number), "b"(o->arguments[0]), "c"(o->arguments[1]),
			   "d"(o->arguments[2]), "S"(o->arguments[3]), "D"(o->arguments[4]),
			   [sixth] "r"((int)o->arguments[5])
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
#else
	(void)o;
	return -ENOSYS;
#endif
}

static void *work(void *unused)
{
	struct order mine = order;

	for (long i = 0; i < mine.times; i++) {
		long result = mine.compat ? compat(&mine) : native(&mine);

		if (result > 0 || result <= -ERRORS)
			result = 0;
		__atomic_fetch_add(&counts[-result], 1, __ATOMIC_SEQ_CST);
	}
	return unused;
}

static void work_all(void)
{
	pthread_t threads[THREADS_MAX];

	if (order.threads == 1) {
		work(NULL);
		return;
	}
	for (long i = 0; i < order.threads; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			exit(3);
	for (long i = 0; i < order.threads; i++)
		pthread_join(threads[i], NULL);
}

static int parse(int *forks)
{
	char *word = strtok(line, " \n");

	memset(&order, 0, sizeof(order));
	*forks = word && !strcmp(word, "fork");
	if (*forks)
		word = strtok(NULL, " \n");
	if (!word)
		return -1;
	order.compat = !strcmp(word, "compat");
	for (int i = 0; (word = strtok(NULL, " \n")) && i < 3 + ARGUMENTS; i++) {
		long value = *word == '@' ? (long)(word + 1) : strtol(word, NULL, 0);

		if (i == 0)
			order.threads = value;
		else if (i == 1)
			order.times = value;
		else if (i == 2)
			order.number = value;
		else
			order.arguments[i - 3] = value;
	}
	return order.threads < 1 || order.threads > THREADS_MAX ? -1 : 0;
}

static void answer(void)
{
	const char *separator = "";

	printf("{");
	for (int i = 0; i < ERRORS; i++) {
		if (!counts[i])
			continue;
		printf("%s\"%d\":%ld", separator, i, counts[i]);
		separator = ",";
	}
	printf("}\n");
}

int main(void)
{
	static char output[1 << 16];

	signal(SIGPIPE, SIG_IGN);
	/* Nothing is allocated between two orders. */
	setvbuf(stdout, output, _IOFBF, sizeof(output));
	counts = mmap(NULL, ERRORS * sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		return 1;
	printf("{}\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int forks;

		memset(counts, 0, ERRORS * sizeof(*counts));
		if (parse(&forks))
			return 2;
		if (forks) {
			pid_t child = fork();

			if (child < 0)
				return 4;
			if (!child) {
				work_all();
				_exit(0);
			}
			waitpid(child, NULL, 0);
		} else {
			work_all();
		}
		answer();
		fflush(stdout);
	}
	return 0;
}
