/*
 * The command's control group and its resource limits.
 *
 * The group is a delegated one: in its own cgroup namespace the command sees it as the root of all groups,
 * may make groups below it, and cannot write to what limits it. (A command with every capability owns its
 * kernel and can get round anything in the guest; the host's bounds on CPU and memory are outside.)
 */
#include "init.h"

#define GROUP "/sys/fs/cgroup/command"

static int group = -1;  /* the command's control group */
static int memory = -1; /* what the kernel counts of its memory */
static int told;

static void put(int directory, const char *name, const char *text)
{
    int fd = openat(directory, name, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        write(fd, text, strlen(text));
        close(fd);
    }
}

/* Gives the command's group every controller that there is, as it would have them without a group. */
static void delegate(void)
{
    char names[512], *rest, word[64];
    int root = open("/sys/fs/cgroup", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(root, "cgroup.controllers", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, names, sizeof names - 1);
    names[n > 0 ? n : 0] = 0;
    for (char *name = strtok_r(names, " \n", &rest); name; name = strtok_r(NULL, " \n", &rest)) {
        snprintf(word, sizeof word, "+%s", name);
        put(root, "cgroup.subtree_control", word);
    }
    close(fd);
    close(root);
}

void make_group(void)
{
    delegate();
    mkdir(GROUP, 0755);
    group = open(GROUP, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (group < 0) {
        if (config.pids)
            die("the command's control group");
        return;
    }
    if (config.pids)
        put(group, "pids.max", config.pids);
    mkdirat(group, "probe", 0755);
    memory = openat(group, "memory.events", O_RDONLY | O_CLOEXEC);
}

/* For a child that is about to execute: the command, a probe ("probe" is a group of its own), a session. */
void enter_group(const char *below)
{
    char path[64];
    if (group < 0)
        return;
    snprintf(path, sizeof path, "%s%scgroup.procs", below, *below ? "/" : "");
    put(group, path, "0");
}

/* For the command: what it and all others see from now on as the control groups is its own group. */
void show_group(void)
{
    if (group < 0 || unshare(CLONE_NEWCGROUP) < 0)
        return;
    umount2("/sys/fs/cgroup", MNT_DETACH);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* Kills a probe with all that it has started. */
void kill_probes(void)
{
    if (group >= 0)
        put(group, "probe/cgroup.kill", "1");
}

int memory_events(void)
{
    return memory;
}

/* Tells the host, once, that the kernel has killed for want of memory. */
void tell_oom(void)
{
    char text[512];
    ssize_t n = memory < 0 ? -1 : pread(memory, text, sizeof text - 1, 0);
    if (n <= 0)
        return;
    text[n] = 0;
    char *found = strstr(text, "\noom_kill ");
    if (found && atol(found + 10) > 0 && !told) {
        told = 1;
        say("oom");
    }
}

void set_limits(void)
{
    for (size_t i = 0; i < config.rlimitc; i++) {
        unsigned long long soft, hard;
        int number;
        if (sscanf(config.rlimits[i], "%d %llu %llu", &number, &soft, &hard) == 3) {
            struct rlimit limit = {soft, hard};
            if (setrlimit(number, &limit) < 0)
                dprintf(2, "hybrid: resource limit %d: %s\n", number, strerror(errno));
        }
    }
    if (config.oom_score_adj) {
        score_oom(config.oom_score_adj);
    }
}
