/* Validation of a message, before any operation of it is executed. */
#include "protocol.h"

/* What an operation's payload must look like. */
struct shape {
	uint32_t min, max; /* bytes */
	uint32_t unit;     /* length is min plus a multiple of this */
	uint8_t fd;        /* the payload starts with a descriptor index */
};

#define FIXED(n) { (n), (n), 1, 0 }
#define WITH_FD(n) { (n), (n), 1, 1 }
#define ANY(n) { (n), MAX_MESSAGE, 1, 0 }

static const struct shape shapes[] = {
	[OP_RESET_SIGNALS] = FIXED(0),
	[OP_DUP2] = WITH_FD(sizeof(struct p_dup2)),
	[OP_SETSID] = FIXED(0),
	[OP_SETCTTY] = FIXED(sizeof(struct p_u32)),
	[OP_UMASK] = FIXED(sizeof(struct p_u32)),
	[OP_RLIMIT] = FIXED(sizeof(struct p_rlimit)),
	[OP_SETGROUPS] = { 0, MAX_GROUPS * 4, 4, 0 },
	[OP_SETGID] = FIXED(sizeof(struct p_u32)),
	[OP_SETUID] = FIXED(sizeof(struct p_u32)),
	[OP_KEEPCAPS] = FIXED(0),
	[OP_DROP_BOUNDING] = FIXED(sizeof(struct p_bounding)),
	[OP_SETCAPS] = FIXED(sizeof(struct p_caps)),
	[OP_SETAMBIENT] = FIXED(sizeof(struct p_ambient)),
	[OP_NO_NEW_PRIVS] = FIXED(0),
	[OP_CHDIR] = ANY(2),
	[OP_PERSONALITY] = FIXED(sizeof(struct p_u32)),
	[OP_SECCOMP] = { sizeof(struct p_seccomp) + 8,
			 sizeof(struct p_seccomp) + MAX_FILTER * 8, 8, 0 },
	[OP_CLOSE_FROM] = FIXED(sizeof(struct p_u32)),
	[OP_LOOKUP] = ANY(sizeof(struct p_lookup)),
	[OP_EXEC] = ANY(sizeof(struct p_exec) + 2 * 8 + 1),
	[OP_JOIN_CGROUP] = WITH_FD(sizeof(struct p_u32)),
	[OP_SETNS] = WITH_FD(sizeof(struct p_setns)),
	[OP_FORK] = FIXED(0),
	[OP_WRITE_FD] = { sizeof(struct p_write) + 1, MAX_MESSAGE, 1, 1 },
	[OP_SESSION_KEYRING] = FIXED(0),
	[OP_UNSHARE] = FIXED(sizeof(struct p_u32)),
	[OP_FSOPEN] = ANY(2),
	[OP_WRITE_AT] = { sizeof(struct p_write_at) + 4, MAX_MESSAGE, 1, 1 },
	[OP_MEMPOLICY] = { sizeof(struct p_mempolicy),
			   sizeof(struct p_mempolicy) + MAX_NODES / 8, 8, 0 },
	[OP_AFFINITY] = { 8, MAX_CPUS / 8, 8, 0 },
	[OP_TRY_CHDIR] = ANY(2),
	[OP_RETRY_CHDIR] = ANY(2),
};

/* strings tells whether exactly count strings fill the bytes p to end. */
static int strings(const uint8_t *p, const uint8_t *end, uint64_t count)
{
	if (p < end && end[-1] != 0)
		return 0;
	for (; p < end; p++)
		if (*p == 0 && count-- == 0)
			return 0;
	return count == 0;
}

static const char *check_lookup(const struct p_lookup *l, const uint8_t *end)
{
	if (l->search > 1 || (!l->search && l->count != 1))
		return "bad lookup";
	if (!strings((const uint8_t *)l->candidates, end, l->count))
		return "bad strings";
	return NULL;
}

static const char *check_write_at(const struct p_write_at *w, const uint8_t *end)
{
	if (w->zero)
		return "not zero";
	return strings((const uint8_t *)w->strings, end, 2) ? NULL : "bad strings";
}

/* check_exec puts the pointers in; nothing is executed unless all is valid. */
static const char *check_exec(struct p_exec *e, uint8_t *end)
{
	uint64_t room = (uint64_t)(end - (uint8_t *)e->pointers) / 8;
	uint64_t count = (uint64_t)e->argc + e->envc;
	uint64_t i, slot = 0;
	uint8_t *p;

	if (e->argc == 0 || count + 2 > room)
		return "bad argument count";
	for (i = 0; i < count + 2; i++)
		if (e->pointers[i] != 0)
			return "pointers not zero";
	p = (uint8_t *)(e->pointers + count + 2);
	if (!strings(p, end, count))
		return "bad strings";
	for (i = 0; i < count; i++) {
		if (i == e->argc)
			slot++; /* the NULL that ends argv */
		e->pointers[slot++] = (uint64_t)(uintptr_t)p;
		while (*p++)
			;
	}
	return NULL;
}

static const char *check_payload(uint32_t code, uint8_t *p, uint32_t length)
{
	switch (code) {
	case OP_DUP2:
		return ((struct p_dup2 *)p)->target > MAX_TARGET ? "bad target" : NULL;
	case OP_SETCTTY:
		return ((struct p_u32 *)p)->value > MAX_TARGET ? "bad target" : NULL;
	case OP_RLIMIT:
		return ((struct p_rlimit *)p)->zero ? "not zero" : NULL;
	case OP_SECCOMP:
		return ((struct p_seccomp *)p)->zero ? "not zero" : NULL;
	case OP_WRITE_FD:
		return ((struct p_write *)p)->zero ? "not zero" : NULL;
	case OP_MEMPOLICY:
		return ((struct p_mempolicy *)p)->zero ? "not zero" : NULL;
	case OP_WRITE_AT:
		return check_write_at((struct p_write_at *)p, p + length);
	case OP_CHDIR:
	case OP_FSOPEN:
	case OP_TRY_CHDIR:
	case OP_RETRY_CHDIR:
		return strings(p, p + length, 1) ? NULL : "bad string";
	case OP_LOOKUP:
		return check_lookup((struct p_lookup *)p, p + length);
	case OP_EXEC:
		return check_exec((struct p_exec *)p, p + length);
	}
	return NULL;
}

static const char *check_shape(const struct header *h, const struct op *op)
{
	const struct shape *s;

	if (op->code == 0 || op->code >= sizeof(shapes) / sizeof(shapes[0]))
		return "unknown operation";
	s = &shapes[op->code];
	if (op->length < s->min || op->length > s->max ||
	    (op->length - s->min) % s->unit)
		return "bad length";
	if (s->fd && *(const uint32_t *)(op + 1) >= h->nfds)
		return "bad descriptor index";
	return NULL;
}

/* check_op looks at the operation at op, of which room bytes are there. */
static const char *check_op(const struct header *h, struct op *op, size_t room)
{
	uint8_t *payload = (uint8_t *)(op + 1);
	const char *bad;
	size_t i;

	if (room < sizeof(*op) || op->length > room - sizeof(*op) ||
	    padded(op->length) > room - sizeof(*op))
		return "truncated operation";
	bad = check_shape(h, op);
	if (bad)
		return bad;
	for (i = op->length; i < padded(op->length); i++)
		if (payload[i] != 0)
			return "padding not zero";
	return check_payload(op->code, payload, op->length);
}

static const char *check_header(const struct header *h)
{
	if (h->magic != MAGIC)
		return "bad magic";
	if (h->version != VERSION)
		return "bad version";
	if (h->nfds > MAX_FDS)
		return "too many descriptors";
	if (h->length > MAX_MESSAGE || h->length % 8)
		return "bad message length";
	return NULL;
}

const char *validate(const struct header *h, uint8_t *body, int can_exec,
		     uint32_t *at, uint32_t *code)
{
	const char *bad = check_header(h);
	uint8_t *p = body;

	*code = 0;
	for (*at = 0; !bad && *at < h->nops; ++*at) {
		struct op *op = (struct op *)p;
		size_t room = h->length - (size_t)(p - body);

		if (room >= sizeof(*op))
			*code = op->code;
		bad = check_op(h, op, room);
		if (bad)
			return bad;
		p += sizeof(*op) + padded(op->length);
		if (op->code == OP_LOOKUP)
			can_exec = 1;
		if (op->code == OP_EXEC && !can_exec)
			return "nothing was looked up";
		if (op->code == OP_EXEC && *at + 1 != h->nops)
			return "operation after exec";
	}
	if (!bad && p != body + h->length)
		bad = "trailing bytes";
	return bad;
}
