/* Builds a filter with libseccomp, as runc does, and writes its program to
 * stdout. Input, one per line:
 *   default ACTION
 *   arch NAME
 *   rule ACTION NAME COUNT {INDEX OP DATUM DATUM}...
 */
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what, int rc)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-rc));
	exit(rc == -EEXIST ? 3 : 1);
}

int main(void)
{
	char word[64];
	scmp_filter_ctx ctx = NULL;
	int rc;

	while (scanf("%63s", word) == 1) {
		uint32_t action;
		unsigned n, i, index, op;
		struct scmp_arg_cmp args[6];

		if (!strcmp(word, "default")) {
			if (scanf("%" SCNu32, &action) != 1 || !(ctx = seccomp_init(action)))
				fail("default", -EINVAL);
		} else if (!strcmp(word, "arch")) {
			if (scanf("%63s", word) != 1)
				fail("arch", -EINVAL);
			rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(word));
			if (rc && rc != -EEXIST)
				fail(word, rc);
		} else if (!strcmp(word, "rule")) {
			if (scanf("%" SCNu32 " %63s %u", &action, word, &n) != 3 || n > 6)
				fail("rule", -EINVAL);
			for (i = 0; i < n; i++) {
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &index, &op,
					  &args[i].datum_a, &args[i].datum_b) != 4)
					fail("rule", -EINVAL);
				args[i].arg = index;
				args[i].op = op;
			}
			int nr = seccomp_syscall_resolve_name(word);
			if (nr == __NR_SCMP_ERROR)
				continue;
			rc = seccomp_rule_add_array(ctx, action, nr, n, args);
			if (rc)
				fail(word, rc);
		} else {
			fail(word, -EINVAL);
		}
	}
	rc = seccomp_export_bpf(ctx, STDOUT_FILENO);
	if (rc)
		fail("export", rc);
	return 0;
}
