/* A simulated disk under a real process, loaded with LD_PRELOAD.
 *
 * It wraps the functions of the C library that change or read files, and acts on the files of one folder only. It appends every
 * change to a journal, from which the test computes what survives a power cut, and it injects faults. No fsync reaches the real
 * disk. The test controls it through a shared memory file with one number a field (enum control); disk.rs has the same list. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum control {
  ATTACHED,       /* set to the process id when the library is loaded */
  WRITE_ERROR,    /* the errno of every change of a file, 0: none */
  FREE_BYTES,     /* how far the files may still grow, NEVER: without limit */
  SYNC_ERROR,     /* the errno of an fsync that has something to write, 0: none */
  SYNC_SUCCESSES, /* fsyncs that succeed before it */
  SYNC_FAILURES,  /* fsyncs that fail then */
  SYNC_HANGS,     /* 1: an fsync waits until this is 0 */
  READ_ERROR,     /* the errno of a read, 0: none */
  READ_FAILURES,  /* reads that fail */
  READ_FROM,      /* only reads of a byte between these offsets fail */
  READ_TO,
  FAULTY_FILE,    /* the file whose fsyncs and reads fail: 0 any, 1 the database, 2 the write-ahead log */
  CHANGES_LEFT,   /* the process is killed before the change after these */
  SYNCS,          /* counts fsyncs that succeeded */
  FAULTS,         /* counts the faults that were injected */
  HANGING,        /* fsyncs that hang now */
  FIELDS
};
#define NEVER UINT64_MAX

enum operation { CREATE, WRITE, LENGTH, SYNC, SYNC_FAILED, UNLINK, RENAME, SYNC_FOLDER };

/* A record of the journal: this header, the name, the data. */
struct header {
  uint32_t operation, name_length;
  uint64_t offset, data_length;
};

struct file {
  char name[64];
  bool dirty, is_shm;
};

#define MAX_FILES 64
#define MAX_FDS 65536
static struct file files[MAX_FILES], the_folder;
static struct file *file_of[MAX_FDS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile uint64_t *control;
static const char *folder;
static int journal = -1;

#define REAL(type, name, ...)                                                                                                      \
  static type (*real)(__VA_ARGS__);                                                                                                \
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("WWPROXY_DISK_CONTROL");
  int fd = path ? open(path, O_RDWR) : -1;
  if (fd < 0) return;
  void *shared = mmap(NULL, FIELDS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  int log = open(getenv("WWPROXY_DISK_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (shared == MAP_FAILED || log < 0) abort();
  journal = log;
  control = shared;
  control[ATTACHED] = getpid();
  folder = getenv("WWPROXY_DISK_FOLDER");
}

/* The file of a path, or NULL if it is not below the folder. */
static struct file *find(const char *path) {
  size_t length = folder ? strlen(folder) : 0;
  if (!length || strncmp(path, folder, length)) return NULL;
  if (!path[length]) return &the_folder;
  if (path[length] != '/') return NULL;
  const char *name = path + length + 1;
  /* The key of the tokens is not the store's: it is written to a temporary file, fsynced and renamed with a system call. */
  if (!strcmp(name, "token.key") || !strncmp(name, ".tmp", 4)) return NULL;
  for (int i = 0; i < MAX_FILES; i++) {
    if (!files[i].name[0]) {
      if (strlen(name) >= sizeof files[i].name) abort();
      strcpy(files[i].name, name);
      /* Shared memory is not a part of the database: SQLite builds it anew. */
      files[i].is_shm = strlen(name) > 4 && !strcmp(name + strlen(name) - 4, "-shm");
    }
    if (!strcmp(files[i].name, name)) return &files[i];
  }
  abort();
}

static struct file *tracked(int fd) { return fd >= 0 && fd < MAX_FDS ? file_of[fd] : NULL; }

static void record(enum operation operation, struct file *file, uint64_t offset, const void *data, size_t length) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  if (file->is_shm) return;
  struct header header = {operation, strlen(file->name), offset, length};
  struct iovec parts[] = {{&header, sizeof header}, {file->name, header.name_length}, {(void *)data, length}};
  ssize_t whole = sizeof header + header.name_length + length;
  if (real(journal, parts, 3) != whole) abort();
}

/* Counts a change: the power is cut after a number of them. */
static void change(struct file *file) {
  if (file->is_shm || control[CHANGES_LEFT] == NEVER) return;
  if (control[CHANGES_LEFT] == 0) raise(SIGKILL);
  control[CHANGES_LEFT]--;
}

static bool fault(uint64_t error) {
  if (!error) return false;
  control[FAULTS]++;
  errno = error;
  return true;
}

static bool is_faulty(struct file *file) {
  const char *dash = strrchr(file->name, '-'), *dot = strrchr(file->name, '.');
  switch (control[FAULTY_FILE]) {
  case 0: return true;
  case 1: return dot && !dash;
  default: return dash && !strcmp(dash, "-wal");
  }
}

static uint64_t length_of(int fd) {
  struct stat status;
  return fstat(fd, &status) ? 0 : status.st_size;
}

/* Takes the space for a file that grows, or gives it back. Returns false if the disk is full. */
static bool resize(uint64_t from, uint64_t to) {
  if (control[FREE_BYTES] == NEVER || from == to) return true;
  if (to > from && to - from > control[FREE_BYTES]) {
    fault(ENOSPC);
    return false;
  }
  control[FREE_BYTES] += from - to;
  return true;
}

static int opened(int fd, struct file *file, int flags, bool existed, uint64_t length) {
  if (fd < 0 || fd >= MAX_FDS) return fd;
  file_of[fd] = file;
  if (file && file != &the_folder && !existed) {
    record(CREATE, file, 0, NULL, 0);
  } else if (file && length && flags & O_TRUNC) {
    file->dirty = true;
    record(LENGTH, file, 0, NULL, 0);
    resize(length, 0);
  }
  return fd;
}

static int do_open(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t mode) {
  struct file *file = control ? find(path) : NULL;
  if (!file) return real(at, path, flags, mode);
  pthread_mutex_lock(&mutex);
  struct stat status;
  bool existed = !stat(path, &status);
  int fd = -1;
  if ((!existed && flags & O_CREAT) || flags & O_TRUNC) {
    change(file);
    if (!fault(control[WRITE_ERROR])) fd = real(at, path, flags, mode);
  } else {
    fd = real(at, path, flags, mode);
  }
  fd = opened(fd, file, flags, existed, existed ? status.st_size : 0);
  pthread_mutex_unlock(&mutex);
  return fd;
}

#define OPEN_MODE                                                                                                                  \
  mode_t mode = 0;                                                                                                                 \
  if (flags & O_CREAT) {                                                                                                           \
    va_list arguments;                                                                                                             \
    va_start(arguments, flags);                                                                                                    \
    mode = va_arg(arguments, int);                                                                                                 \
    va_end(arguments);                                                                                                             \
  }                                                                                                                                \
  REAL(int, "openat64", int, const char *, int, ...)

int open(const char *path, int flags, ...) { OPEN_MODE; return do_open(real, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE; return do_open(real, AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPEN_MODE; return do_open(real, at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPEN_MODE; return do_open(real, at, path, flags, mode); }

int close(int fd) {
  REAL(int, "close", int);
  if (tracked(fd)) file_of[fd] = NULL;
  return real(fd);
}

static ssize_t do_write(int fd, const void *data, size_t length, off_t offset, bool at_cursor) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
  struct file *file = tracked(fd);
  pthread_mutex_lock(&mutex);
  change(file);
  uint64_t end = offset + length, before = length_of(fd);
  ssize_t written = -1;
  if (!fault(control[WRITE_ERROR]) && resize(before, end > before ? end : before)) {
    file->dirty = true;
    record(WRITE, file, offset, data, length);
    written = real(fd, data, length, offset);
    if (written != (ssize_t)length) abort();
    if (at_cursor) lseek(fd, end, SEEK_SET);
  }
  pthread_mutex_unlock(&mutex);
  return written;
}

ssize_t write(int fd, const void *data, size_t length) {
  REAL(ssize_t, "write", int, const void *, size_t);
  if (!tracked(fd)) return real(fd, data, length);
  return do_write(fd, data, length, lseek(fd, 0, SEEK_CUR), true);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
  return tracked(fd) ? do_write(fd, data, length, offset, false) : real(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

/* Nothing that the server does to its store may go past this library. */
#define UNSUPPORTED(name, type, parameters, arguments, ...)                                                                        \
  type name parameters {                                                                                                           \
    REAL(type, #name, __VA_ARGS__);                                                                                                \
    if (tracked(fd)) abort();                                                                                                      \
    return real arguments;                                                                                                         \
  }
UNSUPPORTED(writev, ssize_t, (int fd, const struct iovec *parts, int count), (fd, parts, count), int, const struct iovec *, int)
UNSUPPORTED(pwritev, ssize_t, (int fd, const struct iovec *parts, int count, off_t offset), (fd, parts, count, offset), int,
            const struct iovec *, int, off_t)
UNSUPPORTED(fallocate, int, (int fd, int mode, off_t offset, off_t length), (fd, mode, offset, length), int, int, off_t, off_t)
UNSUPPORTED(posix_fallocate, int, (int fd, off_t offset, off_t length), (fd, offset, length), int, off_t, off_t)
UNSUPPORTED(fallocate64, int, (int fd, int mode, off64_t offset, off64_t length), (fd, mode, offset, length), int, int, off64_t,
            off64_t)
UNSUPPORTED(posix_fallocate64, int, (int fd, off64_t offset, off64_t length), (fd, offset, length), int, off64_t, off64_t)
UNSUPPORTED(dup, int, (int fd), (fd), int)

int ftruncate(int fd, off_t length) {
  REAL(int, "ftruncate64", int, off_t);
  struct file *file = tracked(fd);
  if (!file) return real(fd, length);
  pthread_mutex_lock(&mutex);
  change(file);
  int result = -1;
  if (!fault(control[WRITE_ERROR]) && resize(length_of(fd), length)) {
    file->dirty = true;
    record(LENGTH, file, length, NULL, 0);
    result = real(fd, length);
  }
  pthread_mutex_unlock(&mutex);
  return result;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

static bool sync_fails(struct file *file) {
  /* An fsync that has nothing to write succeeds. */
  if (!file->dirty || !control[SYNC_ERROR] || !is_faulty(file)) return false;
  if (control[SYNC_SUCCESSES]) {
    control[SYNC_SUCCESSES]--;
    return false;
  }
  if (!control[SYNC_FAILURES]) return false;
  if (control[SYNC_FAILURES] != NEVER) control[SYNC_FAILURES]--;
  return fault(control[SYNC_ERROR]);
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  struct file *file = tracked(fd);
  if (!file) return real(fd);
  pthread_mutex_lock(&mutex);
  while (control[SYNC_HANGS] && is_faulty(file)) {
    struct timespec pause = {0, 1000000};
    control[HANGING]++;
    pthread_mutex_unlock(&mutex);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&mutex);
    control[HANGING]--;
  }
  change(file);
  bool failed = sync_fails(file);
  if (file != &the_folder) record(failed ? SYNC_FAILED : SYNC, file, 0, NULL, 0);
  else if (!failed) record(SYNC_FOLDER, file, 0, NULL, 0);
  if (!failed) control[SYNCS]++;
  /* After a failure the pages count as clean: they stay readable, and no later fsync writes them. */
  file->dirty = false;
  pthread_mutex_unlock(&mutex);
  return failed ? -1 : 0;
}
int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  return tracked(fd) ? fsync(fd) : real(fd);
}

static bool read_fails(struct file *file, uint64_t offset, size_t length) {
  if (!file || !control[READ_ERROR] || !control[READ_FAILURES] || !is_faulty(file)) return false;
  if (offset >= control[READ_TO] || offset + length <= control[READ_FROM]) return false;
  if (control[READ_FAILURES] != NEVER) control[READ_FAILURES]--;
  return fault(control[READ_ERROR]);
}

ssize_t read(int fd, void *data, size_t length) {
  REAL(ssize_t, "read", int, void *, size_t);
  struct file *file = tracked(fd);
  return file && read_fails(file, lseek(fd, 0, SEEK_CUR), length) ? -1 : real(fd, data, length);
}
ssize_t pread(int fd, void *data, size_t length, off_t offset) {
  REAL(ssize_t, "pread64", int, void *, size_t, off_t);
  return read_fails(tracked(fd), offset, length) ? -1 : real(fd, data, length, offset);
}
ssize_t pread64(int fd, void *data, size_t length, off64_t offset) { return pread(fd, data, length, offset); }

static void forget(struct file *file) {
  for (int fd = 0; fd < MAX_FDS; fd++)
    if (file_of[fd] == file) file_of[fd] = NULL;
}

int unlink(const char *path) {
  REAL(int, "unlink", const char *);
  struct file *file = control ? find(path) : NULL;
  struct stat status;
  if (!file || stat(path, &status)) return real(path);
  pthread_mutex_lock(&mutex);
  change(file);
  int result = -1;
  if (!fault(control[WRITE_ERROR])) {
    record(UNLINK, file, 0, NULL, 0);
    result = real(path);
    resize(status.st_size, 0);
    file->dirty = false;
    forget(file);
  }
  pthread_mutex_unlock(&mutex);
  return result;
}

int rename(const char *from, const char *to) {
  REAL(int, "rename", const char *, const char *);
  struct file *file = control ? find(from) : NULL, *target = control ? find(to) : NULL;
  if (!file && !target) return real(from, to);
  if (!file || !target) abort();
  pthread_mutex_lock(&mutex);
  change(file);
  int result = -1;
  if (!fault(control[WRITE_ERROR])) {
    struct stat status;
    if (!stat(to, &status)) resize(status.st_size, 0);
    record(RENAME, file, 0, target->name, strlen(target->name));
    result = real(from, to);
    forget(target);
    for (int fd = 0; fd < MAX_FDS; fd++)
      if (file_of[fd] == file) file_of[fd] = target;
    target->dirty = file->dirty;
    file->dirty = false;
  }
  pthread_mutex_unlock(&mutex);
  return result;
}
