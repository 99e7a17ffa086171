/* What the spec mounts: shares of the host's, file systems in memory, and places of the root's own that stay writable. */
#include "init.h"

#include <linux/mount.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_mount_setattr 442
#endif

static int shares = -1; /* the directory in which the host shows all its shares, by number */

/* Before the image's root is entered: nothing of this place is seen from there. */
void open_shares(void)
{
    if (!config.share)
        return;
    mkdir("/share", 0700);
    if (mount(config.share, "/share", "virtiofs", 0, NULL) < 0)
        die("the host's share");
    shares = open("/share", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (shares < 0)
        die("/share");
}

static void make_point(const char *target, int directory)
{
    char parent[4096];
    struct stat status;
    if (stat(target, &status) == 0)
        return;
    if (directory) {
        make_directories(target);
        return;
    }
    snprintf(parent, sizeof parent, "%s", target);
    *strrchr(parent, '/') = 0;
    if (*parent)
        make_directories(parent);
    int fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
}

/* Shows `name`, below a directory, at the target, with all that is mounted below it. */
static void show(int directory, const char *name, const char *target, int read_only)
{
    int tree = syscall(SYS_open_tree, directory, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    struct mount_attr only = {.attr_set = MOUNT_ATTR_RDONLY};
    if (tree < 0 || (read_only && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &only, sizeof only) < 0))
        die(target);
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0)
        die(target);
    close(tree);
}

static void mount_tmpfs(char *options, const char *target, int read_only)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | (read_only ? MS_RDONLY : 0);
    char data[256] = "", *rest;
    for (char *option = strtok_r(options, ",", &rest); option; option = strtok_r(NULL, ",", &rest)) {
        if (!strcmp(option, "noexec"))
            flags |= MS_NOEXEC;
        else if (strchr(option, '='))
            snprintf(data + strlen(data), sizeof data - strlen(data), "%s%s", *data ? "," : "", option);
    }
    if (mount("tmpfs", target, "tmpfs", flags, data) < 0)
        die(target);
}

/* "KIND ACCESS WHAT TARGET": KIND is directory, file (WHAT is its number), tmpfs (its options) or own. */
static void mount_one(char *line)
{
    char *rest, *kind = strtok_r(line, " ", &rest), *access = strtok_r(NULL, " ", &rest);
    char *what = strtok_r(NULL, " ", &rest), *target = rest;
    if (!kind || !access || !what || !target || *target != '/')
        return;
    int read_only = !strcmp(access, "ro");
    make_point(target, strcmp(kind, "file") != 0);
    if (!strcmp(kind, "tmpfs"))
        mount_tmpfs(what, target, read_only);
    else if (!strcmp(kind, "own"))
        show(AT_FDCWD, target, target, read_only);
    else
        show(shares, what, target, read_only);
}

/* In the image's root. The working directory may lie in a volume, and read-only is the last that the root becomes. */
void mount_volumes(void)
{
    for (size_t i = 0; i < config.mountc; i++)
        mount_one(config.mounts[i]);
    if (shares >= 0)
        close(shares);
    make_directories(config.cwd);
    if (config.read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0)
        die("the read-only root");
}
