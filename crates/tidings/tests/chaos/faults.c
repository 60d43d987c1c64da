/* Faults below the process, preloaded: while the file named by FAULT_SYNC exists, fsync and
 * fdatasync fail with EIO, and the first to fail writes its moment, in ns since 1970, to the file of
 * that name with ".failed" behind it; while the one named by FAULT_FULL exists, writes to files under
 * FAULT_FOLDER fail with ENOSPC. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

static int triggered(const char *variable) {
    const char *path = getenv(variable);
    return path && syscall(SYS_access, path, F_OK) == 0;
}

static int full(int fd) {
    int before = errno;
    const char *folder = getenv("FAULT_FOLDER");
    char link[64], path[4096];
    if (!folder || !triggered("FAULT_FULL")) {
        errno = before;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0 && path[strlen(folder)] == '/';
}

static void note_failure(void) {
    static int noted;
    char path[4096], text[32];
    struct timespec now;
    if (__atomic_exchange_n(&noted, 1, __ATOMIC_SEQ_CST)) return;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(path, sizeof path, "%s.failed", getenv("FAULT_SYNC"));
    int length = snprintf(text, sizeof text, "%lld", now.tv_sec * 1000000000LL + now.tv_nsec);
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    if (fd < 0 || syscall(SYS_write, fd, text, length) != length) abort();
    syscall(SYS_close, fd);
}

static int failing_sync(void) {
    int before = errno;
    int failing = triggered("FAULT_SYNC");
    if (failing) note_failure();
    errno = failing ? EIO : before;
    return failing;
}

int fsync(int fd) { return failing_sync() ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return failing_sync() ? -1 : (int)syscall(SYS_fdatasync, fd); }

static ssize_t refused(void) {
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    return full(fd) ? refused() : syscall(SYS_write, fd, bytes, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return full(fd) ? refused() : syscall(SYS_pwrite64, fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return full(fd) ? refused() : syscall(SYS_pwrite64, fd, bytes, count, at);
}
