/*
 * What an instance looks like from inside, one thing a line: the same program in every kind.
 *
 *   probe identity WORD...   who runs it: ids, directory, names, environment, where each WORD is in PATH
 *   probe tree               every file below /: what it is, whose, since when, and the SHA-256 of what is in it
 *   probe serve, probe check the image `static`'s own program, and its healthcheck
 *
 * `tree` leaves out what kinds may differ in by their nature: what is mounted over the image (/proc, /sys,
 * /dev, /etc/hosts, /etc/hostname), the copy of this program (/tmp/.probe), sizes and link counts of
 * directories, which are the file system's own, and the times of the directories in which a place to mount on
 * or that copy may have been made (/, /etc, /tmp).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

extern char **environ;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* A name on one line: what is not plain ASCII in octal. */
static void escaped(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] > ' ' && text[i] < 127 && text[i] != '\\')
            putchar(text[i]);
        else
            printf("\\%03o", (unsigned char)text[i]);
}

/* ---- SHA-256 (FIPS 180-4) ------------------------------------------------------------------ */

struct sha256 {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
};

static uint32_t constants[64];

/* The first 32 bits of the fractional parts of the roots of the first primes, exactly: no table to mistype. */
static uint32_t root_bits(unsigned prime, int cubic)
{
    unsigned __int128 wanted = (unsigned __int128)prime << (cubic ? 96 : 64);
    uint64_t root = 0;
    for (uint64_t bit = 1ULL << 37; bit; bit >>= 1) {
        unsigned __int128 next = root | bit;
        if ((cubic ? next * next * next : next * next) <= wanted)
            root |= bit;
    }
    return (uint32_t)root;
}

static void sha256_start(struct sha256 *hash)
{
    static uint32_t start[8];
    for (unsigned prime = 2, found = 0; !constants[63]; prime++) {
        unsigned divisor = 2;
        while (divisor < prime && prime % divisor)
            divisor++;
        if (divisor < prime)
            continue;
        if (found < 8)
            start[found] = root_bits(prime, 0);
        constants[found++] = root_bits(prime, 1);
    }
    memcpy(hash->state, start, sizeof start);
    hash->length = 0;
}

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void sha256_block(struct sha256 *hash, const unsigned char *data)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | data[4 * i + 1] << 16 | data[4 * i + 2] << 8 | data[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (ROTATE(w[i - 15], 7) ^ ROTATE(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (ROTATE(w[i - 2], 17) ^ ROTATE(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, hash->state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t one = v[7] + (ROTATE(v[4], 6) ^ ROTATE(v[4], 11) ^ ROTATE(v[4], 25)) +
                       ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[i] + w[i];
        uint32_t two = (ROTATE(v[0], 2) ^ ROTATE(v[0], 13) ^ ROTATE(v[0], 22)) +
                       ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        hash->state[i] += v[i];
}

static void sha256_add(struct sha256 *hash, const unsigned char *data, size_t size)
{
    while (size) {
        size_t at = hash->length % 64, part = 64 - at < size ? 64 - at : size;
        memcpy(hash->block + at, data, part);
        hash->length += part;
        data += part;
        size -= part;
        if (hash->length % 64 == 0)
            sha256_block(hash, hash->block);
    }
}

static void sha256_print(struct sha256 *hash)
{
    uint64_t bits = hash->length * 8;
    unsigned char end[8];
    for (int i = 0; i < 8; i++)
        end[i] = bits >> (56 - 8 * i);
    sha256_add(hash, (const unsigned char *)"\x80", 1);
    while (hash->length % 64 != 56)
        sha256_add(hash, (const unsigned char *)"", 1);
    sha256_add(hash, end, 8);
    for (int i = 0; i < 8; i++)
        printf("%08x", hash->state[i]);
}

/* ---- the tree ------------------------------------------------------------------------------ */

static const char *const mounted[] = {"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/tmp/.probe", NULL};
static const char *const touched[] = {"/", "/etc", "/tmp", NULL};

static int among(const char *const *names, const char *path)
{
    for (; *names; names++)
        if (!strcmp(*names, path))
            return 1;
    return 0;
}

static void content(const char *path)
{
    static unsigned char data[1 << 16];
    struct sha256 hash;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n;
    if (fd < 0)
        fail(path);
    sha256_start(&hash);
    while ((n = read(fd, data, sizeof data)) > 0)
        sha256_add(&hash, data, n);
    if (n < 0)
        fail(path);
    close(fd);
    printf(" sha256=");
    sha256_print(&hash);
}

static int by_name(const void *one, const void *two)
{
    return strcmp(*(char *const *)one, *(char *const *)two);
}

static void attributes(const char *path)
{
    static char names[1 << 16], value[1 << 16], *sorted[1024];
    ssize_t length = llistxattr(path, names, sizeof names);
    size_t count = 0;
    if (length < 0 && errno != ENOTSUP)
        fail(path);
    for (ssize_t at = 0; at < length && count < 1024; at += strlen(names + at) + 1)
        sorted[count++] = names + at;
    qsort(sorted, count, sizeof *sorted, by_name);
    for (size_t i = 0; i < count; i++) {
        ssize_t size = lgetxattr(path, sorted[i], value, sizeof value);
        if (size < 0)
            fail(path);
        printf(" xattr.%s=", sorted[i]);
        for (ssize_t at = 0; at < size; at++)
            printf("%02x", (unsigned char)value[at]);
    }
}

/* Of a file with several names, the one that comes first. */
static void links(const char *path, const struct stat *status)
{
    static struct { ino_t inode; dev_t device; char *path; } *seen;
    static size_t count;
    printf(" nlink=%lu", (unsigned long)status->st_nlink);
    if (status->st_nlink == 1)
        return;
    for (size_t i = 0; i < count; i++)
        if (seen[i].inode == status->st_ino && seen[i].device == status->st_dev) {
            printf(" same=");
            escaped(seen[i].path, strlen(seen[i].path));
            return;
        }
    seen = realloc(seen, (count + 1) * sizeof *seen);
    seen[count].inode = status->st_ino;
    seen[count].device = status->st_dev;
    seen[count++].path = strdup(path);
}

static void describe(const char *path, const struct stat *status)
{
    char target[4097];
    escaped(path, strlen(path));
    printf(" mode=%06o uid=%u gid=%u", status->st_mode, status->st_uid, status->st_gid);
    if (!among(touched, path))
        printf(" mtime=%lld.%09ld", (long long)status->st_mtim.tv_sec, status->st_mtim.tv_nsec);
    if (!S_ISDIR(status->st_mode)) {
        printf(" size=%lld", (long long)status->st_size);
        links(path, status);
    }
    if (S_ISLNK(status->st_mode)) {
        ssize_t n = readlink(path, target, sizeof target);
        printf(" link=");
        escaped(target, n < 0 ? 0 : n);
    } else if (S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode))
        printf(" device=%u,%u", major(status->st_rdev), minor(status->st_rdev));
    else if (S_ISREG(status->st_mode))
        content(path);
    attributes(path);
    putchar('\n');
}

static void walk(const char *path)
{
    struct stat status;
    if (among(mounted, path))
        return;
    if (lstat(path, &status) < 0)
        fail(path);
    describe(path, &status);
    if (!S_ISDIR(status.st_mode))
        return;
    DIR *directory = opendir(path);
    char **names = NULL;
    size_t count = 0;
    if (!directory)
        fail(path);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            names = realloc(names, (count + 1) * sizeof *names);
            if (asprintf(&names[count++], "%s/%s", path[1] ? path : "", entry->d_name) < 0)
                fail(path);
        }
    closedir(directory);
    if (count)
        qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        walk(names[i]);
        free(names[i]);
    }
    free(names);
}

/* ---- who runs it --------------------------------------------------------------------------- */

static void line(const char *key, const char *text)
{
    printf("%s ", key);
    escaped(text, strlen(text));
    putchar('\n');
}

static void where(const char *word)
{
    char path[4096], *places = strdup(getenv("PATH") ? getenv("PATH") : ""), *place, *rest = places;
    while ((place = strsep(&rest, ":"))) {
        snprintf(path, sizeof path, "%s/%s", place, word);
        if (access(path, X_OK) == 0) {
            printf("which %s ", word);
            line("", path);
            break;
        }
    }
    free(places);
}

static void own_status(void)
{
    static const char *const wanted[] = {"SigBlk:", "SigIgn:", "SigCgt:", NULL};
    char text[512];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(text, sizeof text, file))
        for (const char *const *each = wanted; *each; each++)
            if (!strncmp(text, *each, strlen(*each)))
                fputs(text, stdout);
    if (file)
        fclose(file);
}

static void identity(char **words)
{
    gid_t groups[1024];
    char text[4096];
    struct rlimit files;
    mode_t mask = umask(0);
    int count = getgroups(1024, groups);
    umask(mask);
    getrlimit(RLIMIT_NOFILE, &files);
    printf("uid %u %u\ngid %u %u\ngroups", getuid(), geteuid(), getgid(), getegid());
    for (int i = 0; i < count; i++)
        printf(" %u", groups[i]);
    printf("\npid %d\numask %04o\nopen files %lu\n", getpid(), mask, files.rlim_cur);
    own_status();
    line("directory", getcwd(text, sizeof text) ? text : "?");
    gethostname(text, sizeof text);
    line("hostname", text);
    for (const char *const *path = (const char *const[]){"/etc/hostname", "/etc/hosts", NULL}; *path; path++) {
        int fd = open(*path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        text[n < 0 ? 0 : n] = 0;
        line(*path, text);
        close(fd);
    }
    for (int fd = 0; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("descriptor %d\n", fd);
    for (char **entry = environ; *entry; entry++)
        line("env", *entry);
    for (; *words; words++)
        where(*words);
}

/* ---- the image `static` -------------------------------------------------------------------- */

static int loopback(int connecting)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(7000), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || (connecting ? connect : bind)(fd, (struct sockaddr *)&place, sizeof place) < 0)
        fail("127.0.0.1:7000");
    return fd;
}

static void end(int number)
{
    _exit(number == SIGTERM ? 0 : 128 + number);
}

static void serve(void)
{
    int fd = loopback(0);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    if (listen(fd, 16) < 0)
        fail("listen");
    for (;;)
        close(accept(fd, NULL, NULL));
}

int main(int argc, char **argv)
{
    static char buffer[1 << 16];
    const char *what = argc > 1 ? argv[1] : "";
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (!strcmp(what, "serve"))
        serve();
    if (!strcmp(what, "check"))
        return loopback(1) < 0;
    if (!strcmp(what, "identity"))
        identity(argv + 2);
    else if (!strcmp(what, "tree"))
        walk("/");
    else
        return 2;
    return fflush(stdout) ? 1 : 0;
}
