/* Executing the command: its user, its directory, its streams. */
#include "init.h"

void score_oom(const char *score)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        write_all(fd, score, strlen(score));
        close(fd);
    }
}

void limit_resources(void)
{
    struct rlimit files = {1024, 1048576}; /* hybrid/defaults.py */
    setrlimit(RLIMIT_NOFILE, &files);
    set_limits();
}

void become_user(void)
{
    limit_resources();
    if (setgroups(config.groupc, config.groups) < 0 || setgid(config.gid) < 0 || setuid(config.uid) < 0)
        die("the user");
}

void make_directories(const char *path)
{
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(part, 0755);
        *slash = '/';
    }
    mkdir(part, 0755);
}

/* No command: somebody only wants to be let in, and ends us with SIGKILL. */
_Noreturn static void idle(int failure)
{
    close(failure);
    for (;;)
        pause();
}

/* In the child: what is written to `failure` is the errno of what went wrong; execve closes it. */
void execute(int stdio[3], int failure)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    int error = 0;
    enter_group("");
    show_group();
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        error = errno;
    for (int fd = 0; fd < 3; fd++)
        dup2(stdio[fd], fd);
    if (config.tty)
        ioctl(0, TIOCSCTTY, 0);
    if (!error && chdir(config.cwd) < 0)
        error = errno;
    if (!error) {
        for (int fd = 0; fd < 3; fd++)
            if (config.tty || fd == 1 || fd == 2)
                fchown(fd, config.uid, -1); /* so that it may open /dev/stdout and the like */
        become_user();
        if (config.idle)
            idle(failure);
        execve(config.executable, config.argv, config.env);
        error = errno;
    }
    write(failure, &error, sizeof error);
    _exit(error == ENOENT ? 127 : 126);
}

/* Low descriptors would be overwritten by dup2 in the child. */
int above_stdio(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    close(fd);
    return high;
}

void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        die("pipe");
    ends[0] = above_stdio(ends[0]);
    ends[1] = above_stdio(ends[1]);
}
