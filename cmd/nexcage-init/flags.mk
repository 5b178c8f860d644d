# How the helper is built: no libc, no start files, nothing but the kernel.
# The tests of lxc/helper read this file too.
HELPER_CFLAGS = -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pie -fno-strict-aliasing -fno-tree-loop-distribute-patterns -ffunction-sections
HELPER_LDFLAGS = -nostdlib -static -no-pie -s -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,noseparate-code
