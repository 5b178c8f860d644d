/*
 * nexcage-init is the process that becomes the user's process. It asks the
 * shim what to do, does that, operation by operation, and executes the user's
 * program at the end. It decides nothing.
 *
 *   nexcage-init     the first process of a container: connects to the socket
 *                    "sock" in its own directory
 *   nexcage-init N   a further process: descriptor N is the socket
 *
 * It is single-threaded, has no libc, allocates nothing for a usual message,
 * and keeps nothing open. docs/helper-protocol.md describes what it is told.
 */
#include "init.h"
#include "sys.h"

#define FIRST_FD (MAX_TARGET + 1)

static int sock;
static int looked_up;
static struct message msg;

/* Small messages, and most are, need no mapping: RLIMIT_AS may be tiny. */
static uint8_t small[65536] __attribute__((aligned(8)));

__asm__(START_ASM);

void die(int code)
{
	for (;;)
		sys1(NR_exit_group, code);
}

long send_reply(const struct reply *r, int fd)
{
	struct iovec iov = { (void *)r, sizeof(*r) };
	struct {
		struct cmsghdr h;
		int fd;
		int pad;
	} c = { { sizeof(c.h) + sizeof(c.fd), SOL_SOCKET, SCM_RIGHTS }, fd, 0 };
	struct msghdr m = { .iov = &iov, .iovlen = 1 };

	if (fd < 0) /* the only call that a seccomp filter surely lets pass */
		return sys3(NR_write, sock, r, sizeof(*r));
	m.control = &c;
	m.controllen = sizeof(c);
	return sys3(NR_sendmsg, sock, &m, MSG_NOSIGNAL);
}

long await_go(void)
{
	uint8_t byte;
	long got;

	do
		got = sys3(NR_read, sock, &byte, 1);
	while (got == -EINTR);
	if (got == 0)
		die(EXIT_EOF);
	return got;
}

__attribute__((noreturn)) static void malformed(uint32_t at, uint32_t code,
						long err)
{
	struct reply r = { MAGIC, REPLY_MALFORMED, at, code, (int32_t)-err, 0 };

	send_reply(&r, -1);
	die(EXIT_MALFORMED);
}

/* A message that ends early is one that is not valid. */
static void read_full(void *to, size_t n)
{
	uint8_t *p = to;

	while (n > 0) {
		long got = sys3(NR_read, sock, p, n);

		if (got == -EINTR)
			continue;
		if (got <= 0)
			malformed(0, 0, -EIO);
		p += got;
		n -= (size_t)got;
	}
}

/*
 * out_of_the_way returns fd, or a duplicate where OP_DUP2 puts none; or a
 * negative errno.
 */
static int out_of_the_way(int fd)
{
	long moved;

	if (fd >= FIRST_FD)
		return fd;
	moved = sys3(NR_fcntl, fd, F_DUPFD_CLOEXEC, FIRST_FD);
	sys1(NR_close, fd);
	return (int)moved;
}

/* take stores the descriptors that came with a message, returns how many. */
static uint32_t take(const struct msghdr *m)
{
	const struct cmsghdr *c = m->control;
	const int *fds = (const int *)(c + 1);
	uint32_t i, n;

	if (m->controllen < sizeof(*c))
		return 0;
	if (c->level != SOL_SOCKET || c->type != SCM_RIGHTS)
		malformed(0, 0, -EINVAL);
	n = (uint32_t)((c->len - sizeof(*c)) / sizeof(int));
	if (n > MAX_FDS)
		malformed(0, 0, -EMFILE);
	for (i = 0; i < n; i++) {
		msg.fds[i] = out_of_the_way(fds[i]);
		if (msg.fds[i] < 0)
			malformed(0, 0, msg.fds[i]);
	}
	return n;
}

/* receive waits for the next header, and for the descriptors with it. */
static void receive(void)
{
	struct {
		struct cmsghdr h;
		int fds[MAX_FDS + 4];
	} control;
	struct iovec iov = { &msg.h, sizeof(msg.h) };
	struct msghdr m = { .iov = &iov, .iovlen = 1, .control = &control,
			    .controllen = sizeof(control) };
	uint32_t nfds;
	long got;

	do
		got = sys3(NR_recvmsg, sock, &m, MSG_CMSG_CLOEXEC);
	while (got == -EINTR);
	if (got <= 0)
		die(EXIT_EOF);
	nfds = take(&m);
	if (m.flags & MSG_CTRUNC) /* RLIMIT_NOFILE is too small for them */
		malformed(0, 0, -EMFILE);
	read_full((uint8_t *)&msg.h + got, sizeof(msg.h) - (size_t)got);
	if (nfds != msg.h.nfds)
		malformed(0, 0, -EINVAL);
}

static uint8_t *map(size_t n)
{
	long p = sys6(NR_mmap, 0, (long)n, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p < 0 && p > -4096)
		malformed(0, 0, p);
	return (uint8_t *)p;
}

static void read_body(void)
{
	uint32_t at = 0, code = 0;

	/* Before anything is believed: the length is one of them. */
	if (msg.h.magic != MAGIC || msg.h.version != VERSION ||
	    msg.h.length > MAX_MESSAGE)
		malformed(0, 0, -EINVAL);
	msg.body = msg.h.length > sizeof(small) ? map(msg.h.length) : small;
	read_full(msg.body, msg.h.length);
	if (validate(&msg.h, msg.body, looked_up, &at, &code))
		malformed(at, code, -EINVAL);
}

__attribute__((noreturn)) static void failed(uint32_t at, uint32_t code,
					     long err, uint32_t extra)
{
	struct reply r = { MAGIC, REPLY_FAILED, at, code, (int32_t)-err, extra };

	send_reply(&r, -1);
	die(EXIT_FAILED);
}

static void run(void)
{
	uint8_t *p = msg.body;
	uint32_t i;

	for (i = 0; i < msg.h.nops; i++) {
		const struct op *op = (const struct op *)p;
		uint32_t extra = 0;
		long err = execute(&msg, op, i, &extra);

		if (err < 0)
			failed(i, op->code, err, extra);
		if (op->code == OP_LOOKUP)
			looked_up = 1;
		p += sizeof(*op) + padded(op->length);
	}
}

static void clean(void)
{
	uint32_t i;

	for (i = 0; i < msg.h.nfds; i++)
		sys1(NR_close, msg.fds[i]);
	if (msg.body != small)
		sys2(NR_munmap, msg.body, msg.h.length);
}

/* dial connects fd to the socket beside the helper's own file. */
static void dial(int fd, const char *self)
{
	struct sockaddr_un sa = { .family = AF_UNIX };
	static const char name[] = "sock";
	size_t i, dir = 0;

	for (i = 0; self[i]; i++)
		if (self[i] == '/')
			dir = i + 1;
	if (dir + sizeof(name) > sizeof(sa.path))
		die(EXIT_USAGE);
	for (i = 0; i < dir; i++)
		sa.path[i] = self[i];
	for (i = 0; i < sizeof(name); i++)
		sa.path[dir + i] = name[i];
	if (sys3(NR_connect, fd, &sa, sizeof(sa)) < 0)
		die(EXIT_CONNECT);
}

static long number(const char *s)
{
	long n = 0;

	do {
		if (*s < '0' || *s > '9' || n > 99999)
			die(EXIT_USAGE);
		n = 10 * n + (*s - '0');
	} while (*++s);
	return n;
}

/*
 * open_socket makes fd the socket, and closes everything else but stdio: LXC
 * leaks descriptors to its init, and so may whoever started the shim.
 */
static void open_socket(long fd)
{
	sock = fd < 0 ? -1 : out_of_the_way((int)fd);
	if (sock < 0 || sys3(NR_fcntl, sock, F_SETFD, FD_CLOEXEC) < 0 ||
	    sys3(NR_close_range, 3, sock - 1, 0) < 0 ||
	    sys3(NR_close_range, sock + 1, ~0U, 0) < 0)
		die(EXIT_USAGE);
}

/*
 * Until execve resets it, nobody in the container may look into this process,
 * or at its file.
 */
static void hide(void)
{
	if (sys5(NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		die(EXIT_USAGE);
}

__attribute__((noreturn, used)) void start(long *stack)
{
	static const struct reply ok = { .magic = MAGIC, .kind = REPLY_OK };
	long argc = stack[0];
	char **argv = (char **)(stack + 1);

	hide();
	if (argc == 1) {
		open_socket(sys3(NR_socket, AF_UNIX, SOCK_STREAM, 0));
		dial(sock, argv[0]);
	} else if (argc == 2) {
		open_socket(number(argv[1]));
	} else {
		die(EXIT_USAGE);
	}
	for (;;) {
		receive();
		read_body();
		run();
		clean();
		if (send_reply(&ok, -1) != sizeof(ok))
			die(EXIT_EOF);
	}
}
