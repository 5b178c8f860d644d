/*
 * The messages between the shim and the helper. docs/helper-protocol.md
 * describes them; oci/initop is the other end. All numbers little endian.
 *
 * A message is a header and its operations, each of which is a struct op, its
 * payload, and zeros up to the next multiple of 8. The descriptors come with
 * the first byte of the header (SCM_RIGHTS).
 */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#define MAGIC 0x3143584e /* "NXC1" */
#define VERSION 1
#define MAX_MESSAGE 8388608 /* bytes of operations in a message */
#define MAX_FDS 250         /* the kernel's SCM_MAX_FD is 253 */
#define MAX_TARGET 9        /* OP_DUP2: what was received is above */
#define MAX_FILTER 4096     /* instructions, the kernel's BPF_MAXINSNS */
#define MAX_GROUPS 65536    /* the kernel's NGROUPS_MAX */
#define MAX_NODES 1024      /* memory nodes, the kernel's largest MAX_NUMNODES */
#define MAX_CPUS 65536      /* CPUs in a mask; the kernel has up to 8192 */

#define OP_RESET_SIGNALS 1
#define OP_DUP2 2
#define OP_SETSID 3
#define OP_SETCTTY 4
#define OP_UMASK 5
#define OP_RLIMIT 6
#define OP_SETGROUPS 7
#define OP_SETGID 8
#define OP_SETUID 9
#define OP_KEEPCAPS 10
#define OP_DROP_BOUNDING 11
#define OP_SETCAPS 12
#define OP_SETAMBIENT 13
#define OP_NO_NEW_PRIVS 14
#define OP_CHDIR 15
#define OP_PERSONALITY 16
#define OP_SECCOMP 17
#define OP_CLOSE_FROM 18
#define OP_LOOKUP 19
#define OP_EXEC 20
#define OP_JOIN_CGROUP 21
#define OP_SETNS 22
#define OP_FORK 23
#define OP_WRITE_FD 24
#define OP_SESSION_KEYRING 25
#define OP_UNSHARE 26
#define OP_FSOPEN 27
#define OP_WRITE_AT 28
#define OP_MEMPOLICY 29
#define OP_AFFINITY 30
#define OP_TRY_CHDIR 31
#define OP_RETRY_CHDIR 32

#define REPLY_OK 0        /* every operation of the message was done */
#define REPLY_FAILED 1    /* an operation failed; the helper ends */
#define REPLY_FORKED 2    /* value is the pid, the pidfd comes with it */
#define REPLY_MALFORMED 3 /* nothing was done; the helper ends */
#define REPLY_OPENED 4    /* a descriptor comes with it; the helper goes on */
#define REPLY_LISTENER 5  /* value is the descriptor; goes on after one byte */

/* Why OP_LOOKUP failed, in reply.extra. */
#define LOOKUP_UNUSABLE 0  /* found, but a directory or not executable */
#define LOOKUP_STAT 1      /* stat(2) of a name with a slash failed */
#define LOOKUP_NOT_FOUND 2 /* nothing in $PATH */
#define LOOKUP_DOT 3       /* found through a relative element of $PATH */

#define EXIT_FAILED 120    /* an operation failed */
#define EXIT_USAGE 121     /* bad arguments, or no working set-up */
#define EXIT_CONNECT 122   /* nobody listens: a restart that LXC made */
#define EXIT_EOF 123       /* the shim closed the connection */
#define EXIT_MALFORMED 124 /* a message that is not valid */

struct header {
	uint32_t magic;
	uint16_t version;
	uint16_t nfds;
	uint32_t nops;
	uint32_t length; /* of what follows the header */
};

struct op {
	uint32_t code;
	uint32_t length; /* of the payload, without padding */
};

struct reply {
	uint32_t magic;
	uint32_t kind;
	uint32_t index; /* of the operation in the message */
	uint32_t code;  /* of the operation */
	int32_t value;  /* errno, the pid, or the descriptor */
	uint32_t extra;
};

/* Payloads. Strings end with NUL; what has none in here has no payload. */

struct p_u32 { /* OP_SETCTTY, _UMASK, _SETGID, _SETUID, _PERSONALITY, _CLOSE_FROM, _JOIN_CGROUP */
	uint32_t value;
};

struct p_dup2 {
	uint32_t fd;
	uint32_t target;
};

struct p_rlimit {
	uint32_t resource;
	uint32_t zero;
	uint64_t soft;
	uint64_t hard;
};

struct p_bounding {
	uint64_t keep;
};

struct p_caps {
	uint64_t effective;
	uint64_t permitted;
	uint64_t inheritable;
};

struct p_ambient {
	uint64_t caps;
};

struct p_seccomp {
	uint32_t flags;
	uint32_t zero;
	uint64_t filter[]; /* struct sock_filter */
};

struct p_lookup {
	uint32_t count;    /* strings that follow, in the order to try */
	uint32_t search;   /* 1: found by $PATH; 0: one name with a slash */
	char candidates[];
};

struct p_exec {
	uint32_t argc;
	uint32_t envc;
	/* argc + 1 + envc + 1 zeros, in whose place the helper puts the
	 * pointers, so that it needs no memory; then the strings. */
	uint64_t pointers[];
};

struct p_setns {
	uint32_t fd;
	uint32_t type;
};

struct p_write {
	uint32_t fd;
	uint32_t zero;
	char data[];
};

struct p_write_at {
	uint32_t fd; /* a directory */
	uint32_t zero;
	char strings[]; /* the path, relative to it, and the data */
};

struct p_mempolicy {
	uint32_t mode; /* with MPOL_F_ flags */
	uint32_t zero;
	uint64_t nodes[]; /* bit N of the mask is node N */
};

/*
 * validate looks at a whole message, and fills in the pointers of OP_EXEC. It
 * returns NULL if the message is valid, else what is wrong; *at is then the
 * index and *code the code of the operation. can_exec says whether an earlier
 * message had an OP_LOOKUP. No system calls: the tests build it for the host.
 */
const char *validate(const struct header *h, uint8_t *body, int can_exec,
		     uint32_t *at, uint32_t *code);

/* Where the operation after this one starts. */
static inline size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

#endif
