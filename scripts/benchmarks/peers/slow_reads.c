// Preloaded before a process, adds READ_MICROSECONDS to each pread and to each opening of a shard, as
// a file server's latency does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

int open64(const char *path, int flags, ...) {
  static int (*real)(const char *, int, ...);
  if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
  va_list more;
  va_start(more, flags);
  mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (strstr(path, "-of-")) usleep(atoi(getenv("READ_MICROSECONDS")));
  return real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return open64(path, flags, mode);
}

ssize_t pread64(int file, void *data, size_t count, off_t offset) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
  usleep(atoi(getenv("READ_MICROSECONDS")));
  return real(file, data, count, offset);
}

ssize_t pread(int file, void *data, size_t count, off_t offset) {
  return pread64(file, data, count, offset);
}
