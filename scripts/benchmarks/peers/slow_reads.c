// Preloaded before a process, adds READ_MICROSECONDS to each pread, as a file server's latency does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

ssize_t pread64(int file, void *data, size_t count, off_t offset) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
  usleep(atoi(getenv("READ_MICROSECONDS")));
  return real(file, data, count, offset);
}

ssize_t pread(int file, void *data, size_t count, off_t offset) {
  return pread64(file, data, count, offset);
}
