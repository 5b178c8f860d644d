/*
 * observe tells what a process of a container can not learn with busybox:
 *
 *   observe call NAME ARG...     makes a system call with numbers as arguments,
 *                                says "ok RESULT" or "errno N"
 *   observe call32 NUMBER ARG... the same by the 32-bit entry of x86
 *   observe clocks               CLOCK_MONOTONIC and CLOCK_BOOTTIME, in ns
 *   observe mempolicy            mode with flags, and the nodes' mask (get_mempolicy(2))
 *
 * Several may follow one another, separated by a lone ",": all in one process,
 * so that what a call changed can be looked at. It is for tests only: static
 * and without libc, so that it runs in any image and under any limit.
 */
#include "../../cmd/nexcage-init/sys.h"

#if defined(__x86_64__)
#define NR_clock_gettime 228
#define NR_get_mempolicy 239
#else
#define NR_clock_gettime 113
#define NR_get_mempolicy 236
#endif

static const struct {
	const char *name;
	long nr;
} calls[] = {
	{ "chdir", NR_chdir }, { "getpid", NR_getpid }, { "getsid", NR_getsid },
	{ "personality", NR_personality }, { "setsid", NR_setsid }, { "umask", NR_umask },
	{ "unshare", NR_unshare },
};

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void text(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	sys3(NR_write, 1, s, n);
}

static void number(const char *before, unsigned long v, unsigned base)
{
	char buf[24], *p = buf + sizeof(buf) - 1;

	*p = 0;
	do
		*--p = "0123456789abcdef"[v % base];
	while (v /= base);
	text(before);
	text(p);
}

static unsigned long parse(const char *s)
{
	unsigned long v = 0, base = 10;

	if (s[0] == '0' && s[1] == 'x')
		s += 2, base = 16;
	for (; *s; s++)
		v = v * base + (unsigned long)(*s >= 'a' ? *s - 'a' + 10 : *s - '0');
	return v;
}

static void result(long r)
{
	if (r < 0 && r > -4096)
		number("errno ", (unsigned long)-r, 10);
	else
		number("ok ", (unsigned long)r, 10);
	text("\n");
}

static int call(char **argv, int argc)
{
	unsigned long a[6] = { 0 };

	for (int i = 0; i + 1 < argc && i < 6; i++)
		a[i] = parse(argv[i + 1]);
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (same(calls[i].name, argv[0])) {
			result(sys6(calls[i].nr, A(a[0]), A(a[1]), A(a[2]), A(a[3]), A(a[4]), A(a[5])));
			return 0;
		}
	return 1;
}

static int call32(char **argv, int argc)
{
#if defined(__x86_64__)
	unsigned long a[3] = { 0 };
	long r;

	for (int i = 0; i + 1 < argc && i < 3; i++)
		a[i] = parse(argv[i + 1]);
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(parse(argv[0])), "b"(a[0]), "c"(a[1]), "d"(a[2]) : "memory", "r8", "r9", "r10", "r11");
	result((int)r);
	return 0;
#else
	(void)argv, (void)argc;
	return 1;
#endif
}

static void clocks(void)
{
	static const char *const names[] = { "monotonic ", "boottime " };
	static const int ids[] = { 1, 7 };
	long ts[2];

	for (int i = 0; i < 2; i++) {
		if (sys2(NR_clock_gettime, ids[i], ts))
			return;
		number(names[i], (unsigned long)(ts[0] * 1000000000 + ts[1]), 10);
		text("\n");
	}
}

static void mempolicy(void)
{
	unsigned long mask[16] = { 0 };
	int mode = 0;
	long r = sys5(NR_get_mempolicy, &mode, mask, sizeof(mask) * 8, 0, 0);

	if (r < 0) {
		result(r);
		return;
	}
	number("mode 0x", (unsigned long)(unsigned)mode, 16);
	number(" nodes 0x", mask[0], 16);
	text("\n");
}

static int observe(char **argv, int argc)
{
	if (argc > 1 && same(argv[0], "call"))
		return call(argv + 1, argc - 1);
	if (argc > 1 && same(argv[0], "call32"))
		return call32(argv + 1, argc - 1);
	if (argc == 1 && same(argv[0], "clocks"))
		return clocks(), 0;
	if (argc == 1 && same(argv[0], "mempolicy"))
		return mempolicy(), 0;
	return 1;
}

__asm__(START_ASM);

void start(long *stack) __attribute__((noreturn, used));
void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	int bad = argc < 2;

	for (long i = 1, from = 1; i <= argc; i++)
		if (i == argc || same(argv[i], ",")) {
			bad |= observe(argv + from, (int)(i - from));
			from = i + 1;
		}
	if (bad)
		text("observe: what?\n");
	sys1(NR_exit_group, bad ? 2 : 0);
	__builtin_unreachable();
}
