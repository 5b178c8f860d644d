/*
 * The kernel's interface: system calls, and the few structures and constants
 * that are needed, so that no headers of a libc have to be installed.
 * Numbers: arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h.
 */
#ifndef SYS_H
#define SYS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

#define NR_read 0
#define NR_write 1
#define NR_close 3
#define NR_mmap 9
#define NR_munmap 11
#define NR_rt_sigaction 13
#define NR_rt_sigprocmask 14
#define NR_ioctl 16
#define NR_getpid 39
#define NR_socket 41
#define NR_connect 42
#define NR_sendmsg 46
#define NR_recvmsg 47
#define NR_clone 56
#define NR_execve 59
#define NR_fcntl 72
#define NR_chdir 80
#define NR_umask 95
#define NR_setsid 112
#define NR_setgroups 116
#define NR_setresuid 117
#define NR_setresgid 119
#define NR_getsid 124
#define NR_capset 126
#define NR_personality 135
#define NR_prctl 157
#define NR_sched_setaffinity 203
#define NR_exit_group 231
#define NR_set_mempolicy 238
#define NR_keyctl 250
#define NR_openat 257
#define NR_dup3 292
#define NR_prlimit64 302
#define NR_setns 308
#define NR_unshare 272
#define NR_seccomp 317
#define NR_statx 332

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define START_ASM                     \
	".globl _start\n"             \
	".type _start, @function\n"   \
	"_start:\n"                   \
	"	xor %ebp, %ebp\n"     \
	"	mov %rsp, %rdi\n"     \
	"	and $-16, %rsp\n"     \
	"	call start\n"

#elif defined(__aarch64__)

#define NR_dup3 24
#define NR_fcntl 25
#define NR_ioctl 29
#define NR_chdir 49
#define NR_openat 56
#define NR_close 57
#define NR_read 63
#define NR_write 64
#define NR_capset 91
#define NR_personality 92
#define NR_exit_group 94
#define NR_sched_setaffinity 122
#define NR_rt_sigaction 134
#define NR_rt_sigprocmask 135
#define NR_setresuid 147
#define NR_setresgid 149
#define NR_getsid 156
#define NR_setsid 157
#define NR_setgroups 159
#define NR_umask 166
#define NR_prctl 167
#define NR_getpid 172
#define NR_socket 198
#define NR_connect 203
#define NR_sendmsg 211
#define NR_recvmsg 212
#define NR_munmap 215
#define NR_keyctl 219
#define NR_clone 220
#define NR_execve 221
#define NR_mmap 222
#define NR_set_mempolicy 237
#define NR_prlimit64 261
#define NR_setns 268
#define NR_unshare 97
#define NR_seccomp 277
#define NR_statx 291

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory", "cc");
	return x0;
}

#define START_ASM                     \
	".globl _start\n"             \
	".type _start, %function\n"   \
	"_start:\n"                   \
	"	mov x29, #0\n"        \
	"	mov x30, #0\n"        \
	"	mov x0, sp\n"         \
	"	bl start\n"

#else
#error "unsupported architecture"
#endif

/* The same everywhere. */
#define NR_fsopen 430
#define NR_pidfd_send_signal 424
#define NR_close_range 436
#define NR_faccessat2 439

/* All return a negative errno on failure, as the kernel does. */
#define A(x) ((long)(x))
#define sys1(nr, a) sys6(nr, A(a), 0, 0, 0, 0, 0)
#define sys2(nr, a, b) sys6(nr, A(a), A(b), 0, 0, 0, 0)
#define sys3(nr, a, b, c) sys6(nr, A(a), A(b), A(c), 0, 0, 0)
#define sys4(nr, a, b, c, d) sys6(nr, A(a), A(b), A(c), A(d), 0, 0)
#define sys5(nr, a, b, c, d, e) sys6(nr, A(a), A(b), A(c), A(d), A(e), 0)

#define EPERM 1
#define ENOENT 2
#define EINTR 4
#define EIO 5
#define EACCES 13
#define EISDIR 21
#define EINVAL 22
#define EMFILE 24
#define ENAMETOOLONG 36
#define ENOSYS 38

#define AF_UNIX 1
#define SOCK_STREAM 1
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define MSG_CTRUNC 0x8
#define MSG_NOSIGNAL 0x4000
#define MSG_CMSG_CLOEXEC 0x40000000

#define F_SETFD 2
#define F_DUPFD_CLOEXEC 1030
#define FD_CLOEXEC 1
#define CLOSE_RANGE_CLOEXEC 4
#define FSOPEN_CLOEXEC 1

#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20

#define SIGCHLD 17
#define SIGKILL 9
#define SIGSTOP 19
#define NSIG 64
#define SIG_SETMASK 2

#define CLONE_PIDFD 0x1000
#define CLONE_PARENT 0x8000

#define PR_SET_DUMPABLE 4
#define PR_SET_KEEPCAPS 8
#define PR_CAPBSET_READ 23
#define PR_CAPBSET_DROP 24
#define PR_SET_NO_NEW_PRIVS 38
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_RAISE 2
#define PR_CAP_AMBIENT_CLEAR_ALL 4

#define TIOCSCTTY 0x540e
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER 8
#define KEYCTL_JOIN_SESSION_KEYRING 1
#define CAPABILITY_VERSION_3 0x20080522

#define O_WRONLY 1
#define O_CLOEXEC 02000000

#define AT_FDCWD (-100)
#define AT_EACCESS 0x200
#define X_OK 1
#define STATX_BASIC_STATS 0x7ff
#define S_IFMT 0170000
#define S_IFDIR 0040000
#define PATH_MAX 4096

struct iovec {
	void *base;
	size_t len;
};

struct msghdr {
	void *name;
	int namelen;
	struct iovec *iov;
	size_t iovlen;
	void *control;
	size_t controllen;
	unsigned flags;
};

struct cmsghdr {
	size_t len;
	int level;
	int type;
};

struct sockaddr_un {
	uint16_t family;
	char path[108];
};

struct sigaction { /* as the kernel has it; all zero is SIG_DFL */
	uint64_t handler, flags, restorer, mask;
};

struct rlimit64 {
	uint64_t cur, max;
};

struct cap_header {
	uint32_t version;
	int pid;
};

struct cap_data {
	uint32_t effective, permitted, inheritable;
};

struct sock_fprog {
	uint16_t len;
	void *filter;
};

struct statx {
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, spare;
	uint64_t rest[28];
};
_Static_assert(sizeof(struct statx) == 256, "struct statx");

#endif
