/* A disk that fails when it is told to, between programs and libc (LD_PRELOAD).
 *
 * All processes map one control block (environment FAULTY_DISK: its file). Every call that changes
 * something below `prefix` takes a number; where it is `at` the call fails with `error`, and every
 * later one, too, if `stays` is set, as of a disk that is full. A full disk still removes files.
 * `clock_s` is added to the wall clock, not to the monotonic one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    atomic_int count;  /* calls so far */
    int at;            /* first one that fails; 0: none */
    int error;         /* errno */
    int stays;         /* whether later ones fail, too */
    atomic_int failed; /* how many failed */
    int clock_s;       /* added to the wall clock [s] */
    int traced;        /* whether calls are listed in the file FAULTY_DISK.trace */
    char prefix[1000]; /* of paths; empty: nothing is counted */
    char what[1000];   /* the call that failed first, and its path */
};

static struct control *control;

#define REAL(name)                                                       \
    ({                                                                   \
        static __typeof__(&name) real;                                   \
        if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);    \
        real;                                                            \
    })

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("FAULTY_DISK");
    if (!file) return;
    int fd = REAL(open)(file, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (found != MAP_FAILED) control = found;
}

static int ours(const char *path) {
    size_t n = strlen(control->prefix);
    if (!n) return 0;
    char whole[PATH_MAX];
    if (path[0] != '/') {
        char folder[PATH_MAX / 2];
        if (!getcwd(folder, sizeof folder)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", folder, path);
        path = whole;
    }
    return !strncmp(path, control->prefix, n);
}

static void trace(const char *call, const char *path) {
    char file[PATH_MAX], line[PATH_MAX];
    snprintf(file, sizeof file, "%s.trace", getenv("FAULTY_DISK"));
    int fd = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    int n = snprintf(line, sizeof line, "%s %s\n", call, path);
    if (REAL(write)(fd, line, n) != n) abort();
    REAL(close)(fd);
}

/* Whether this call fails; sets errno. */
static int fails(const char *call, const char *path, int removes) {
    if (!control || !path || !ours(path)) return 0;
    if (removes && (control->error == ENOSPC || control->error == EDQUOT)) return 0;
    int n = atomic_fetch_add(&control->count, 1) + 1;
    if (control->traced) trace(call, path);
    if (!control->at || n < control->at || (n > control->at && !control->stays)) return 0;
    if (!atomic_fetch_add(&control->failed, 1))
        snprintf(control->what, sizeof control->what, "%s %s", call, path);
    errno = control->error;
    return 1;
}

static int fails_fd(const char *call, int fd) {
    if (!control || !control->prefix[0]) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0 || path[0] != '/') return 0; /* a pipe or a socket is on no disk */
    path[n] = 0;
    return fails(call, path, 0);
}

static int fails_at(const char *call, int folder, const char *path, int removes) {
    if (!control || !control->prefix[0]) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) return fails(call, path, removes);
    char link[64], parent[PATH_MAX / 2], whole[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, parent, sizeof parent - 1);
    if (n <= 0) return 0;
    parent[n] = 0;
    snprintf(whole, sizeof whole, "%s/%s", parent, path);
    return fails(call, whole, removes);
}

static int changes(int flags) { return flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR); }

#define MODE                              \
    mode_t mode = 0;                      \
    if (flags & (O_CREAT | O_TMPFILE)) {  \
        va_list list;                     \
        va_start(list, flags);            \
        mode = va_arg(list, mode_t);      \
        va_end(list);                     \
    }

/* A file that is there opens for writing on a full disk, too. */
static int opens(const char *path, int flags) {
    if (!changes(flags)) return 1;
    if (control && (control->error == ENOSPC || control->error == EDQUOT) && !access(path, F_OK)) return 1;
    return 0;
}

int open(const char *path, int flags, ...) {
    MODE if (!opens(path, flags) && fails("open", path, 0)) return -1;
    return REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE if (!opens(path, flags) && fails("open", path, 0)) return -1;
    return REAL(open64)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE if (changes(flags) && fails_at("open", folder, path, 0)) return -1;
    return REAL(openat)(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE if (changes(flags) && fails_at("open", folder, path, 0)) return -1;
    return REAL(openat64)(folder, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
    if (strpbrk(mode, "wax+") && fails("fopen", path, 0)) return NULL;
    return REAL(fopen)(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    if (strpbrk(mode, "wax+") && fails("fopen", path, 0)) return NULL;
    return REAL(fopen64)(path, mode);
}

#define ON_FD(type, name, parameters, arguments)         \
    type name parameters {                               \
        if (fails_fd(#name, fd)) return -1;              \
        return REAL(name) arguments;                     \
    }

ON_FD(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at))
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int n), (fd, data, n))
ON_FD(int, ftruncate, (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, (int fd, off64_t n), (fd, n))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))

int posix_fallocate(int fd, off_t at, off_t n) {
    return fails_fd("posix_fallocate", fd) ? errno : REAL(posix_fallocate)(fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n) {
    return fails_fd("posix_fallocate", fd) ? errno : REAL(posix_fallocate64)(fd, at, n);
}

int mkdir(const char *path, mode_t mode) {
    struct stat found;
    if (stat(path, &found) && fails("mkdir", path, 0)) return -1;
    return REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to) {
    return fails("rename", to, 0) ? -1 : REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    return fails_at("rename", b, to, 0) ? -1 : REAL(renameat)(a, from, b, to);
}

int link(const char *from, const char *to) {
    return fails("link", to, 0) ? -1 : REAL(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    return fails_at("link", b, to, 0) ? -1 : REAL(linkat)(a, from, b, to, flags);
}

/* What is not there cannot be removed, whatever the disk. */
int unlink(const char *path) {
    return !access(path, F_OK) && fails("unlink", path, 1) ? -1 : REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    int there = !faccessat(folder, path, F_OK, 0);
    return there && fails_at("unlink", folder, path, 1) ? -1 : REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    return !access(path, F_OK) && fails("rmdir", path, 1) ? -1 : REAL(rmdir)(path);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = REAL(clock_gettime)(clock, now);
    if (!code && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += control->clock_s;
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int code = REAL(gettimeofday)(now, zone);
    if (!code && control) now->tv_sec += control->clock_s;
    return code;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
