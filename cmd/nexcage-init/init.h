/* What main.c and ops.c know of each other. */
#ifndef INIT_H
#define INIT_H

#include "protocol.h"

/* A message that has been validated, and its descriptors. */
struct message {
	struct header h;
	uint8_t *body;
	int fds[MAX_FDS];
};

/*
 * execute does one operation. It returns 0 or a negative errno; *extra then
 * says more (LOOKUP_..., or for OP_EXEC which candidate was executed). It does
 * not return from a successful OP_EXEC, and OP_FORK returns in the child only.
 */
long execute(const struct message *m, const struct op *op, uint32_t index,
	     uint32_t *extra);

/* Sends a reply, with a descriptor unless fd is negative. */
long send_reply(const struct reply *r, int fd);

/* Waits for the byte with which the shim says that it is ready. */
long await_go(void);

__attribute__((noreturn)) void die(int code);

#endif
