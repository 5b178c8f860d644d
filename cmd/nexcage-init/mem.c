/* What gcc calls even in a freestanding program. */
#include <stddef.h>

void *memset(void *to, int c, size_t n)
{
	unsigned char *p = to;

	while (n--)
		*p++ = (unsigned char)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	unsigned char *p = to;
	const unsigned char *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}
