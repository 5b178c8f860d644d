/* Loads the filter on stdin into itself, and makes 32-bit x86 system calls
 * from 64-bit code: getpid and personality(0xffffffff). Exits with 0 if
 * getpid works, and prints what personality gave. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static struct sock_filter code[4096];

static int call32(int nr, unsigned arg)
{
	int ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(arg) : "memory", "r8", "r9", "r10", "r11");
	return ret;
}

int main(void)
{
	int n = fread(code, sizeof(code[0]), 4096, stdin);
	struct sock_fprog prog = { .len = n, .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
		perror("prctl");
		return 2;
	}
	int pid = call32(20, 0);
	printf("%d", call32(136, 0xffffffff));
	fflush(stdout);
	return pid == getpid() ? 0 : 1;
}
