/*
 * Looking at and changing the inside, for the host: "inside VERB PATH", the path in base64, in the live root.
 *
 *   processes     those of the command's PID namespace, each "PID UID A B C\n" and A bytes of /proc/PID/stat,
 *                 B of its arguments, C of its user's name
 *   stat PATH     one record, without data
 *   pack PATH     a record for what is there and for each thing below it
 *   unpack PATH   takes records on standard input, and makes what they say in that directory
 *
 * A record is "KIND MODE UID GID SECONDS NANOSECONDS SIZE MAJOR MINOR NAME LINK\n", NAME and LINK being lengths,
 * then the name, the link's target, and SIZE bytes of data. KIND is one letter: f d l h p c b (h: another name of
 * an earlier file), t for a directory's time alone, e for the end. The host makes tar archives of it: vm/files.py.
 * What failed is told as "ERRNO PATH" on standard error.
 */
#include "init.h"
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#define PATH_LIMIT (1 << 16)

struct record {
    char kind;
    unsigned mode, uid, gid, major, minor;
    long long seconds;
    unsigned long long size;
    long nanoseconds;
    size_t name, link;
};

_Noreturn static void fail(const char *path)
{
    int number = errno;
    fflush(stdout);
    dprintf(2, "%d %s", number, path);
    _exit(1);
}

/* ---- looking ---------------------------------------------------------------------------- */

static struct seen {
    dev_t device;
    ino_t inode;
    char *name;
} *seen;
static size_t seen_count;

/* The first name of a file that has several. */
static const char *first_name(const struct stat *status, const char *name)
{
    for (size_t i = 0; i < seen_count; i++)
        if (seen[i].inode == status->st_ino && seen[i].device == status->st_dev)
            return seen[i].name;
    struct seen *more = realloc(seen, (seen_count + 1) * sizeof *seen);
    if (more) {
        seen = more;
        seen[seen_count++] = (struct seen){status->st_dev, status->st_ino, strdup(name)};
    }
    return NULL;
}

static char kind_of(mode_t mode)
{
    return S_ISREG(mode) ? 'f' : S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : S_ISFIFO(mode) ? 'p'
         : S_ISCHR(mode) ? 'c' : S_ISBLK(mode) ? 'b' : 's';
}

static void tell(char kind, const struct stat *status, unsigned long long size, const char *name, const char *link)
{
    printf("%c %o %u %u %lld %ld %llu %u %u %zu %zu\n", kind, status->st_mode, status->st_uid, status->st_gid,
           (long long)status->st_mtim.tv_sec, status->st_mtim.tv_nsec, size, major(status->st_rdev),
           minor(status->st_rdev), strlen(name), strlen(link));
    fputs(name, stdout);
    fputs(link, stdout);
}

/* Exactly `size` bytes: a file that shrinks meanwhile is filled up with zeros. */
static void tell_data(int fd, unsigned long long size)
{
    static char data[1 << 16];
    while (size) {
        size_t wanted = size < sizeof data ? size : sizeof data;
        ssize_t n = read(fd, data, wanted);
        if (n <= 0)
            memset(data, 0, n = wanted);
        if (fwrite(data, 1, n, stdout) != (size_t)n)
            _exit(1);
        size -= n;
    }
}

/* File systems that show the kernel and hold no files. */
static int is_pseudo(int fd)
{
    static const long magics[] = {0x9fa0, 0x62656572, 0x27e0eb, 0x63677270, 0x1cd1, 0x19800202, 0x64626720, 0x74726163,
                                  0x73636673, 0x6e736673, 0xcafe4a11, 0x6165676c, 0x187, 0x42494e4d, 0x65735543};
    struct statfs system;
    if (fstatfs(fd, &system) < 0)
        return 1;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if ((unsigned long)system.f_type == (unsigned long)magics[i])
            return 1;
    return 0;
}

static void pack(int parent, const char *last, const char *name, int follow);

static void pack_below(int directory, const char *name)
{
    struct dirent **entries;
    int count = scandirat(directory, ".", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        const char *each = entries[i]->d_name;
        char *whole;
        if (strcmp(each, ".") && strcmp(each, "..") && asprintf(&whole, "%s/%s", name, each) > 0) {
            pack(directory, each, whole, 0);
            free(whole);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

static void pack(int parent, const char *last, const char *name, int follow)
{
    char link[PATH_MAX + 1] = "";
    struct stat status;
    if (fstatat(parent, last, &status, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT && strchr(name, '/'))
            return; /* removed while its directory was read */
        fail(last);
    }
    char kind = kind_of(status.st_mode);
    if (kind == 's')
        return; /* a socket is no use without its owner */
    if (kind == 'l') {
        ssize_t n = readlinkat(parent, last, link, sizeof link - 1);
        link[n > 0 ? n : 0] = 0;
    }
    const char *first = kind != 'd' && status.st_nlink > 1 ? first_name(&status, name) : NULL;
    if (first) {
        tell('h', &status, 0, name, first);
        return;
    }
    int fd = kind == 'f' || kind == 'd'
                 ? openat(parent, last, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW))
                 : -1;
    tell(kind, &status, kind == 'f' ? status.st_size : 0, name, link);
    if (kind == 'f')
        tell_data(fd, status.st_size);
    else if (kind == 'd' && fd >= 0 && !is_pseudo(fd))
        pack_below(fd, name);
    close(fd);
}

/* A path that ends in a slash or in "/." names what a link there leads to, which must be a directory. */
static int wants_directory(const char *path)
{
    size_t length = strlen(path);
    return length && (path[length - 1] == '/' || (length > 1 && !strcmp(path + length - 2, "/.")));
}

static void start_from(char *path, int all)
{
    struct stat status;
    char link[PATH_MAX + 1] = "";
    int follow = wants_directory(path);
    if (fstatat(AT_FDCWD, path, &status, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
        fail(path);
    if (!all) {
        ssize_t n = S_ISLNK(status.st_mode) ? readlink(path, link, sizeof link - 1) : 0;
        link[n > 0 ? n : 0] = 0;
        tell(kind_of(status.st_mode), &status, 0, "", link);
        printf("%llu\n", (unsigned long long)status.st_size);
        return;
    }
    char *name = strdup(path);
    size_t length = strlen(name);
    while (length && (name[length - 1] == '/' || !strcmp(name + length - (length > 1 ? 2 : 1), "/.")))
        name[length -= name[length - 1] == '/' ? 1 : 2] = 0;
    char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    pack(AT_FDCWD, path, *last ? last : ".", follow);
    puts("e 0 0 0 0 0 0 0 0 0 0");
}

/* ---- changing --------------------------------------------------------------------------- */

static int open_beneath(int into, const char *path, int whole)
{
    struct open_how how = {
        .flags = O_DIRECTORY | O_PATH | O_CLOEXEC,
        .resolve = (whole ? RESOLVE_IN_ROOT : RESOLVE_BENEATH) | RESOLVE_NO_MAGICLINKS,
    };
    return syscall(SYS_openat2, into, *path ? path : ".", &how, sizeof how);
}

/* The directory that a name is in, made with those above it; `last` is set to the name's last part. */
static int open_parent(int into, char *name, int whole, char **last)
{
    char *slash = strrchr(name, '/');
    *last = slash ? slash + 1 : name;
    if (!slash)
        return open_beneath(into, ".", whole);
    *slash = 0;
    int parent = open_beneath(into, name, whole);
    if (parent < 0 && errno == ENOENT) {
        char *below;
        int above = open_parent(into, name, whole, &below);
        if (above >= 0 && (mkdirat(above, below, 0755) == 0 || errno == EEXIST)) {
            if (below != name)
                below[-1] = '/';
            parent = open_beneath(into, name, whole);
        }
        close(above);
    }
    return parent;
}

static void take_data(int fd, unsigned long long size, const char *name)
{
    static char data[1 << 16], zeros[1 << 16];
    while (size) {
        size_t n = fread(data, 1, size < sizeof data ? size : sizeof data, stdin);
        if (!n) {
            errno = EPIPE;
            fail(name);
        }
        size -= n;
        if (fd < 0)
            continue;
        if (!memcmp(data, zeros, n)) { /* a hole */
            lseek(fd, n, SEEK_CUR);
            continue;
        }
        for (size_t done = 0; done < n;) {
            ssize_t m = write(fd, data + done, n - done);
            if (m < 0)
                fail(name);
            done += m;
        }
    }
}

static int set_times(int parent, const char *last, const struct record *record)
{
    struct timespec times[2] = {{record->seconds, record->nanoseconds}, {record->seconds, record->nanoseconds}};
    return utimensat(parent, last, times, AT_SYMLINK_NOFOLLOW);
}

static int make_file(int parent, const char *last, const struct record *record, const char *name)
{
    int fd = openat(parent, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    take_data(fd, record->size, name);
    int result = ftruncate(fd, record->size);
    if (result == 0)
        result = fchown(fd, record->uid, record->gid);
    if (result == 0)
        result = fchmod(fd, record->mode);
    return close(fd) < 0 ? -1 : result;
}

static int make_folder(int parent, const char *last, const struct record *record)
{
    struct stat status;
    if (mkdirat(parent, last, 0700) < 0) {
        if (errno != EEXIST || fstatat(parent, last, &status, AT_SYMLINK_NOFOLLOW) < 0)
            return -1;
        if (!S_ISDIR(status.st_mode) && (unlinkat(parent, last, 0) < 0 || mkdirat(parent, last, 0700) < 0))
            return -1;
    }
    int fd = openat(parent, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int result = fd < 0 || fchown(fd, record->uid, record->gid) < 0 ? -1 : fchmod(fd, record->mode);
    close(fd);
    return result;
}

static int make_link(int into, int parent, const char *last, char *target, int whole)
{
    char *name;
    int directory = open_parent(into, target, whole, &name);
    int result = directory < 0 ? -1 : linkat(directory, name, parent, last, 0);
    close(directory);
    return result;
}

static int make_other(int parent, const char *last, const struct record *record, const char *link)
{
    const mode_t type = record->kind == 'p' ? S_IFIFO : record->kind == 'c' ? S_IFCHR : S_IFBLK;
    int result = record->kind == 'l' ? symlinkat(link, parent, last)
                                     : mknodat(parent, last, type | 0600, makedev(record->major, record->minor));
    if (result == 0)
        result = fchownat(parent, last, record->uid, record->gid, AT_SYMLINK_NOFOLLOW);
    return result == 0 && record->kind != 'l' ? fchmodat(parent, last, record->mode, 0) : result;
}

static void make(int into, const struct record *record, char *name, char *link, int whole)
{
    char *last, *shown = strdup(name);
    int parent = open_parent(into, name, whole, &last), result;
    if (parent < 0)
        fail(shown);
    if (record->kind != 'd' && record->kind != 't' && unlinkat(parent, last, 0) < 0 && errno != ENOENT)
        fail(shown);
    if (record->kind == 't')
        result = 0;
    else if (record->kind == 'd')
        result = make_folder(parent, last, record);
    else if (record->kind == 'f')
        result = make_file(parent, last, record, shown);
    else if (record->kind == 'h')
        result = make_link(into, parent, last, link, whole);
    else
        result = make_other(parent, last, record, link);
    if (result < 0)
        fail(shown);
    if (record->kind != 'h')
        set_times(parent, last, record);
    close(parent);
    free(shown);
}

static int next_record(struct record *record)
{
    char line[256];
    return fgets(line, sizeof line, stdin)
        && sscanf(line, "%c %o %u %u %lld %ld %llu %u %u %zu %zu", &record->kind, &record->mode, &record->uid,
                  &record->gid, &record->seconds, &record->nanoseconds, &record->size, &record->major, &record->minor,
                  &record->name, &record->link) == 11
        && record->name < PATH_LIMIT && record->link < PATH_LIMIT;
}

static void unpack(const char *path)
{
    static char name[PATH_LIMIT], link[PATH_LIMIT];
    struct record record;
    int into = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), whole = strspn(path, "/.") == strlen(path);
    if (into < 0)
        fail(path);
    umask(0);
    while (next_record(&record) && record.kind != 'e') {
        if (fread(name, 1, record.name, stdin) != record.name || fread(link, 1, record.link, stdin) != record.link)
            break;
        name[record.name] = link[record.link] = 0;
        make(into, &record, name, link, whole);
    }
    if (record.kind != 'e') {
        errno = EPIPE;
        fail(path);
    }
}

/* ---- processes -------------------------------------------------------------------------- */

static size_t read_file(const char *pid, const char *name, char *data, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, data, room - 1);
    close(fd);
    data[n > 0 ? n : 0] = 0;
    return n > 0 ? n : 0;
}

static void tell_process(const char *pid)
{
    static struct account account;
    char stat[1024], arguments[4096], status[4096], path[64], number[16];
    size_t stat_length = read_file(pid, "stat", stat, sizeof stat);
    if (!stat_length)
        return; /* it has ended */
    size_t length = read_file(pid, "cmdline", arguments, sizeof arguments);
    struct stat owner = {.st_uid = 0};
    snprintf(path, sizeof path, "/proc/%s", pid);
    lstat(path, &owner);
    read_file(pid, "status", status, sizeof status);
    char *uids = strstr(status, "\nUid:");
    unsigned uid = owner.st_uid;
    if (uids)
        sscanf(uids + 5, "%*u %u", &uid);
    snprintf(number, sizeof number, "%u", uid);
    const char *name = look_up(number, &account) || !*account.name ? number : account.name;
    printf("%s %u %zu %zu %zu\n", pid, uid, stat_length, length, strlen(name));
    fwrite(stat, 1, stat_length, stdout);
    fwrite(arguments, 1, length, stdout);
    fputs(name, stdout);
}

static void tell_processes(void)
{
    char self[16];
    snprintf(self, sizeof self, "%d", getpid());
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));)
        if (*entry->d_name >= '0' && *entry->d_name <= '9' && strcmp(entry->d_name, self))
            tell_process(entry->d_name);
}

/* ----------------------------------------------------------------------------------------- */

_Noreturn static void do_inside(int command, const char *verb, char *path)
{
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    score_oom("0");
    enter(command);
    if (!strcmp(verb, "processes"))
        tell_processes();
    else if (!strcmp(verb, "stat"))
        start_from(path, 0);
    else if (!strcmp(verb, "pack"))
        start_from(path, 1);
    else if (!strcmp(verb, "unpack"))
        unpack(path);
    else
        _exit(125);
    _exit(fflush(stdout) == 0 ? 0 : 1);
}

int inside(const char *verb, char *path)
{
    int status, command = open_command();
    if (command < 0 || setns(command, CLONE_NEWPID) < 0)
        return 125;
    pid_t child = fork();
    if (child == 0)
        do_inside(command, verb, path);
    return child < 0 || waitpid(child, &status, 0) < 0 ? 125 : WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
