/* Records what a process does to the files below one directory, in order: what each write and each sync was, so that a
 * test can work out what a disk has after a power cut at any instant.
 *
 *   gcc -shared -fPIC -O1 -o disk_recorder.so disk_recorder.c -ldl -lpthread
 *   DISK_RECORDER_ROOT=/data DISK_RECORDER_LOG=/tmp/log LD_PRELOAD=./disk_recorder.so program
 *
 * A record is a struct entry, a path, another path, and data; tests/support/power_cuts.py reads them. A change is
 * recorded when its system call has returned; a sync when it begins and again when it has returned, because what is
 * written while it runs may or may not be part of it. A close is recorded before it happens: its number may be used
 * again at once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FILES 4096
#define PUNCH_HOLE 0x02

struct entry {
    uint8_t kind; /* O open, X close, W write, T truncate, P punch, S sync begins, E sync has ended, R rename, U unlink, L link */
    uint8_t is_new;
    uint16_t path_bytes, other_bytes;
    int32_t fd;
    uint64_t offset, data_bytes; /* of P: how long the hole is, and no data follows */
} __attribute__((packed));

static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_bytes;
static char is_followed[MAX_FILES];
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((typeof(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void must_write(const void *data, size_t bytes) {
    const char *at = data;
    while (bytes) {
        ssize_t taken = REAL(write)(log_fd, at, bytes);
        if (taken <= 0) abort();
        at += taken;
        bytes -= taken;
    }
}

static void record(char kind, int is_new, int fd, uint64_t offset, const char *path, const char *other,
                   const struct iovec *parts, int count, uint64_t data_bytes) {
    struct entry entry = {kind, is_new, path ? strlen(path) : 0, other ? strlen(other) : 0, fd, offset, data_bytes};
    pthread_mutex_lock(&one_at_a_time);
    must_write(&entry, sizeof entry);
    must_write(path ? path : "", entry.path_bytes);
    must_write(other ? other : "", entry.other_bytes);
    for (int i = 0; i < count && data_bytes; i++) {
        size_t bytes = parts[i].iov_len < data_bytes ? parts[i].iov_len : data_bytes;
        must_write(parts[i].iov_base, bytes);
        data_bytes -= bytes;
    }
    pthread_mutex_unlock(&one_at_a_time);
}

__attribute__((constructor)) static void start(void) {
    const char *log = getenv("DISK_RECORDER_LOG"), *wanted = getenv("DISK_RECORDER_ROOT");
    if (!log || !wanted) return;
    root_bytes = strlen(strncpy(root, wanted, sizeof root - 1));
    log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) abort();
}

static int is_below(const char *path) {
    return log_fd >= 0 && path && !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

static int follows(int fd) { return fd >= 0 && fd < MAX_FILES && is_followed[fd]; }

static void wrote(int fd, uint64_t offset, const struct iovec *parts, int count, ssize_t taken) {
    if (taken > 0 && follows(fd)) record('W', 0, fd, offset, 0, 0, parts, count, taken);
}

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd >= MAX_FILES) abort();
    if (fd >= 0 && is_below(path)) {
        is_followed[fd] = 1;
        record('O', !was_there, fd, 0, path, 0, 0, 0, 0);
        if (flags & O_TRUNC) record('T', 0, fd, 0, 0, 0, 0, 0, 0);
    }
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    int was_there = access(path, F_OK) == 0;
    return opened(REAL(open)(path, flags, mode), path, flags, was_there);
}
int open64(const char *, int, ...) __attribute__((alias("open")));

int openat(int at, const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    int was_there = faccessat(at, path, F_OK, 0) == 0;
    return opened(REAL(openat)(at, path, flags, mode), path, flags, was_there);
}
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));

int close(int fd) {
    if (follows(fd)) {
        record('X', 0, fd, 0, 0, 0, 0, 0, 0);
        is_followed[fd] = 0;
    }
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *data, size_t bytes) {
    uint64_t offset = follows(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t taken = REAL(write)(fd, data, bytes);
    struct iovec part = {(void *)data, bytes};
    wrote(fd, offset, &part, 1, taken);
    return taken;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
    ssize_t taken = REAL(pwrite)(fd, data, bytes, offset);
    struct iovec part = {(void *)data, bytes};
    wrote(fd, offset, &part, 1, taken);
    return taken;
}
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t taken = REAL(pwritev)(fd, parts, count, offset);
    wrote(fd, offset, parts, count, taken);
    return taken;
}
ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    ssize_t taken = REAL(pwritev2)(fd, parts, count, offset, flags);
    wrote(fd, offset, parts, count, taken);
    return taken;
}
ssize_t pwritev64v2(int, const struct iovec *, int, off_t, int) __attribute__((alias("pwritev2")));

int ftruncate(int fd, off_t length) {
    int answer = REAL(ftruncate)(fd, length);
    if (!answer && follows(fd)) record('T', 0, fd, length, 0, 0, 0, 0, 0);
    return answer;
}
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));

int truncate(const char *path, off_t length) {
    int answer = REAL(truncate)(path, length);
    if (!answer && is_below(path)) record('T', 0, -1, length, path, 0, 0, 0, 0);
    return answer;
}
int truncate64(const char *, off_t) __attribute__((alias("truncate")));

int fallocate(int fd, int mode, off_t offset, off_t length) {
    int answer = REAL(fallocate)(fd, mode, offset, length);
    if (!answer && follows(fd) && mode & PUNCH_HOLE) record('P', 0, fd, offset, 0, 0, 0, 0, length);
    return answer;
}
int fallocate64(int, int, off_t, off_t) __attribute__((alias("fallocate")));

int fsync(int fd) {
    if (!follows(fd)) return REAL(fsync)(fd);
    record('S', 0, fd, 0, 0, 0, 0, 0, 0);
    int answer = REAL(fsync)(fd);
    if (!answer) record('E', 0, fd, 0, 0, 0, 0, 0, 0);
    return answer;
}

int fdatasync(int fd) {
    if (!follows(fd)) return REAL(fdatasync)(fd);
    record('S', 0, fd, 0, 0, 0, 0, 0, 0);
    int answer = REAL(fdatasync)(fd);
    if (!answer) record('E', 0, fd, 0, 0, 0, 0, 0, 0);
    return answer;
}

int rename(const char *path, const char *other) {
    int answer = REAL(rename)(path, other);
    if (!answer && is_below(path)) record('R', 0, -1, 0, path, other, 0, 0, 0);
    return answer;
}

int link(const char *path, const char *other) {
    int answer = REAL(link)(path, other);
    if (!answer && is_below(path)) record('L', 0, -1, 0, path, other, 0, 0, 0);
    return answer;
}

int unlink(const char *path) {
    int answer = REAL(unlink)(path);
    if (!answer && is_below(path)) record('U', 0, -1, 0, path, 0, 0, 0, 0);
    return answer;
}
