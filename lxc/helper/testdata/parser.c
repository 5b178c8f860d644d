/*
 * The helper's validation as a program of the host. Input: for each message
 * its size and whether an executable was looked up before (both 32 bits), and
 * its bytes. Output: '1' or '0' for each, whether it is valid.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../cmd/nexcage-init/protocol.h"

static int valid(const uint8_t *msg, uint32_t size, int can_exec)
{
	struct header h;
	uint32_t at, code;
	uint8_t *body; /* of the exact size, for the address sanitizer */
	int ok;

	if (size < sizeof(h))
		return 0;
	memcpy(&h, msg, sizeof(h));
	if (h.length != size - sizeof(h))
		return 0;
	body = malloc(h.length);
	memcpy(body, msg + sizeof(h), h.length);
	ok = !validate(&h, body, can_exec, &at, &code);
	free(body);
	return ok;
}

int main(void)
{
	uint32_t frame[2];

	while (fread(frame, sizeof(frame), 1, stdin) == 1) {
		uint8_t *msg = malloc(frame[0] + 1);

		if (frame[0] && fread(msg, frame[0], 1, stdin) != 1)
			return 1;
		putchar(valid(msg, frame[0], frame[1]) ? '1' : '0');
		fflush(stdout);
		free(msg);
	}
	return 0;
}
