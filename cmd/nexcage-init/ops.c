/* The operations. Each does one thing that the shim has decided on. */
#include "init.h"
#include "sys.h"

/* What OP_LOOKUP found, for OP_EXEC. */
static char executable[PATH_MAX];
static uint32_t candidate;

/* What OP_TRY_CHDIR left to OP_RETRY_CHDIR. */
static int chdir_refused;

static long reset_signals(void)
{
	static const struct sigaction dfl;
	static const uint64_t none;
	long err;
	int sig;

	for (sig = 1; sig <= NSIG; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		err = sys4(NR_rt_sigaction, sig, &dfl, 0, sizeof(dfl.mask));
		if (err < 0)
			return err;
	}
	return sys4(NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof(none));
}

/* LXC has made its init a session leader already: that is what was wanted. */
static long set_sid(void)
{
	long err = sys1(NR_setsid, 0);

	if (err == -EPERM && sys1(NR_getsid, 0) == sys1(NR_getpid, 0))
		return 0;
	return err;
}

static long drop_bounding(uint64_t keep)
{
	long err;
	int cap;

	for (cap = 0; cap < 64; cap++) {
		err = sys2(NR_prctl, PR_CAPBSET_READ, cap);
		if (err == -EINVAL) /* above the kernel's last capability */
			return 0;
		if (err > 0 && !(keep >> cap & 1))
			err = sys2(NR_prctl, PR_CAPBSET_DROP, cap);
		if (err < 0)
			return err;
	}
	return 0;
}

static long set_caps(const struct p_caps *c)
{
	struct cap_header h = { .version = CAPABILITY_VERSION_3 };
	struct cap_data d[2] = {
		{ (uint32_t)c->effective, (uint32_t)c->permitted,
		  (uint32_t)c->inheritable },
		{ (uint32_t)(c->effective >> 32), (uint32_t)(c->permitted >> 32),
		  (uint32_t)(c->inheritable >> 32) },
	};

	return sys2(NR_capset, &h, d);
}

static long set_ambient(uint64_t caps)
{
	long err = sys5(NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	int cap;

	for (cap = 0; cap < 64 && err >= 0; cap++)
		if (caps >> cap & 1)
			err = sys5(NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE,
				   cap, 0, 0);
	return err;
}

/*
 * Under the filter, so with as few system calls as can be. The shim takes the
 * descriptor by its number (pidfd_getfd(2)); execve closes it.
 */
static long hand_over(long fd, uint32_t index)
{
	struct reply r = { .magic = MAGIC, .kind = REPLY_LISTENER,
			   .index = index, .code = OP_SECCOMP,
			   .value = (int32_t)fd };
	long err = send_reply(&r, -1);

	return err < 0 ? err : await_go();
}

static long load_filter(const struct p_seccomp *s, uint32_t length, uint32_t index)
{
	struct sock_fprog prog = {
		.len = (uint16_t)((length - sizeof(*s)) / 8),
		.filter = (void *)s->filter,
	};

	long fd = sys3(NR_seccomp, SECCOMP_SET_MODE_FILTER, s->flags, &prog);

	if (fd < 0 || !(s->flags & SECCOMP_FILTER_FLAG_NEW_LISTENER))
		return fd;
	return hand_over(fd, index);
}

/* A write that is not complete has no errno of its own. */
static long write_all(int fd, const char *data, size_t n)
{
	long done = sys3(NR_write, fd, data, n);

	return done < 0 || (size_t)done == n ? done : -EIO;
}

static size_t length_of(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

/*
 * What only its own process may open, as the attributes of security modules
 * in /proc, can not be done with OP_WRITE_FD.
 */
static long write_at(int dir, const struct p_write_at *w)
{
	const char *path = w->strings, *data = path + length_of(path) + 1;
	long fd = sys4(NR_openat, dir, path, O_WRONLY | O_CLOEXEC, 0);
	long err;

	if (fd < 0)
		return fd;
	err = write_all((int)fd, data, length_of(data));
	sys1(NR_close, fd);
	return err;
}

static long set_mempolicy(const struct p_mempolicy *m, uint32_t length)
{
	size_t n = length - sizeof(*m);

	/* The kernel takes one bit less than it is told. */
	return sys3(NR_set_mempolicy, m->mode, n ? m->nodes : NULL, n * 8 + 1);
}

/* A directory that this user may not enter, another one may. */
static long try_chdir(const char *path)
{
	long err = sys1(NR_chdir, path);

	chdir_refused = err == -EACCES || err == -EPERM;
	return chdir_refused ? 0 : err;
}

/*
 * usable tells whether path can be executed, in the way of Go's os/exec, whose
 * errors users of runc know.
 */
static long usable(const char *path, uint32_t *extra)
{
	struct statx st;
	long err;

	*extra = LOOKUP_STAT;
	err = sys5(NR_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &st);
	if (err < 0)
		return err;
	*extra = LOOKUP_UNUSABLE;
	if ((st.mode & S_IFMT) == S_IFDIR)
		return -EISDIR;
	err = sys4(NR_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS);
	if (err == -ENOSYS || err == -EPERM) /* an old kernel, a seccomp filter */
		return st.mode & 0111 ? 0 : -EACCES;
	return err;
}

static long remember(const char *path, uint32_t which)
{
	size_t i;

	for (i = 0; i < sizeof(executable); i++) {
		executable[i] = path[i];
		if (!path[i]) {
			candidate = which;
			return 0;
		}
	}
	return -ENAMETOOLONG;
}

static long lookup(const struct p_lookup *l, uint32_t *extra)
{
	const char *path = l->candidates;
	uint32_t i;
	long err;

	for (i = 0; i < l->count; i++) {
		err = usable(path, extra);
		if (err == 0 && l->search && path[0] != '/') {
			*extra = LOOKUP_DOT;
			return -ENOENT;
		}
		if (err == 0)
			return remember(path, i);
		if (!l->search)
			return err;
		while (*path++)
			;
	}
	*extra = LOOKUP_NOT_FOUND;
	return -ENOENT;
}

static long exec(struct p_exec *e, uint32_t *extra)
{
	*extra = candidate;
	return sys3(NR_execve, executable, e->pointers, e->pointers + e->argc + 1);
}

/*
 * The child is a child of the helper's parent. The helper tells it the child's
 * pid, as seen from where the helper was started, and is not needed any more.
 */
static long fork_child(uint32_t index)
{
	struct reply r = { .magic = MAGIC, .kind = REPLY_FORKED,
			   .index = index, .code = OP_FORK };
	int pidfd = -1;
	long pid;

	pid = sys3(NR_clone, CLONE_PARENT | CLONE_PIDFD | SIGCHLD, 0, &pidfd);
	if (pid <= 0)
		return pid;
	r.value = (int32_t)pid;
	if (send_reply(&r, pidfd) < 0) {
		/* Nobody knows of the child. */
		sys4(NR_pidfd_send_signal, pidfd, SIGKILL, 0, 0);
		die(EXIT_FAILED);
	}
	die(0);
}

/*
 * The file system that is made with the context belongs to the user namespace
 * of who opened it, not of who makes it.
 */
static long fs_open(const char *type, uint32_t index)
{
	struct reply r = { .magic = MAGIC, .kind = REPLY_OPENED,
			   .index = index, .code = OP_FSOPEN };
	long fd = sys2(NR_fsopen, type, FSOPEN_CLOEXEC);
	long sent;

	if (fd < 0)
		return fd;
	sent = send_reply(&r, (int)fd);
	sys1(NR_close, fd);
	return sent;
}

/* A kernel without keyrings has none that the process could come by. */
static long session_keyring(void)
{
	long err = sys2(NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);

	return err == -ENOSYS ? 0 : err;
}

/* Operations on the process itself whose payload is one number, or none. */
static long execute_simple(const struct op *op)
{
	uint32_t v = op->length ? ((const struct p_u32 *)(op + 1))->value : 0;

	switch (op->code) {
	case OP_RESET_SIGNALS:
		return reset_signals();
	case OP_SETSID:
		return set_sid();
	case OP_SETCTTY:
		return sys3(NR_ioctl, v, TIOCSCTTY, 0);
	case OP_UMASK:
		return sys1(NR_umask, v);
	case OP_SETGID:
		return sys3(NR_setresgid, v, v, v);
	case OP_SETUID:
		return sys3(NR_setresuid, v, v, v);
	case OP_KEEPCAPS:
		return sys5(NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	case OP_NO_NEW_PRIVS:
		return sys5(NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	case OP_PERSONALITY:
		return sys1(NR_personality, v);
	case OP_CLOSE_FROM:
		return sys3(NR_close_range, v, ~0U, CLOSE_RANGE_CLOEXEC);
	case OP_SESSION_KEYRING:
		return session_keyring();
	case OP_UNSHARE:
		return sys1(NR_unshare, v);
	}
	return -ENOSYS; /* not reached: the message was validated */
}

/* Operations on one of the descriptors. */
static long execute_fd(const struct message *m, const struct op *op)
{
	const void *p = op + 1;
	const struct p_write *w = p;
	int fd = m->fds[*(const uint32_t *)p];

	switch (op->code) {
	case OP_DUP2:
		return sys3(NR_dup3, fd, ((const struct p_dup2 *)p)->target, 0);
	case OP_JOIN_CGROUP:
		return write_all(fd, "0", 1);
	case OP_SETNS:
		return sys2(NR_setns, fd, ((const struct p_setns *)p)->type);
	case OP_WRITE_AT:
		return write_at(fd, p);
	default: /* OP_WRITE_FD */
		return write_all(fd, w->data, op->length - sizeof(*w));
	}
}

static long set_rlimit(const struct p_rlimit *l)
{
	struct rlimit64 lim = { l->soft, l->hard };

	return sys4(NR_prlimit64, 0, l->resource, &lim, 0);
}

long execute(const struct message *m, const struct op *op, uint32_t index,
	     uint32_t *extra)
{
	void *p = (void *)(op + 1);

	switch (op->code) {
	case OP_DUP2:
	case OP_JOIN_CGROUP:
	case OP_SETNS:
	case OP_WRITE_FD:
	case OP_WRITE_AT:
		return execute_fd(m, op);
	case OP_RLIMIT:
		return set_rlimit(p);
	case OP_SETGROUPS:
		return sys2(NR_setgroups, op->length / 4, p);
	case OP_DROP_BOUNDING:
		return drop_bounding(((struct p_bounding *)p)->keep);
	case OP_SETCAPS:
		return set_caps(p);
	case OP_SETAMBIENT:
		return set_ambient(((struct p_ambient *)p)->caps);
	case OP_CHDIR:
		return sys1(NR_chdir, p);
	case OP_TRY_CHDIR:
		return try_chdir(p);
	case OP_RETRY_CHDIR:
		return chdir_refused ? sys1(NR_chdir, p) : 0;
	case OP_MEMPOLICY:
		return set_mempolicy(p, op->length);
	case OP_AFFINITY:
		return sys3(NR_sched_setaffinity, 0, op->length, p);
	case OP_SECCOMP:
		return load_filter(p, op->length, index);
	case OP_LOOKUP:
		return lookup(p, extra);
	case OP_EXEC:
		return exec(p, extra);
	case OP_FORK:
		return fork_child(index);
	case OP_FSOPEN:
		return fs_open(p, index);
	}
	return execute_simple(op);
}
