/* Loaded into idalloc (LD_PRELOAD): clocks that a test sets, and that fail in a thread of its choice. The file that
   IDALLOC_TEST_CLOCK names is shared with the test, see clock.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t wall_offset_s;
    _Atomic int64_t monotonic_offset_s;
    /* So many calls fail in the thread of this name. */
    _Atomic int64_t failures;
    char thread[32];
};

static struct control *control;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("IDALLOC_TEST_CLOCK");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd < 0)
        abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        abort();
    close(fd);
}

static int is_to_fail(void) {
    char name[32] = {0};
    if (atomic_load(&control->failures) <= 0)
        return 0;
    prctl(PR_GET_NAME, name);
    return strncmp(name, control->thread, sizeof name) == 0 && atomic_fetch_sub(&control->failures, 1) > 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (control && is_to_fail()) {
        errno = EINVAL;
        return -1;
    }
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (control && result == 0) {
        if (clock == CLOCK_REALTIME)
            time->tv_sec += atomic_load(&control->wall_offset_s);
        if (clock == CLOCK_MONOTONIC)
            time->tv_sec += atomic_load(&control->monotonic_offset_s);
    }
    return result;
}
