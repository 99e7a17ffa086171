/* What is seen of the isolation from inside. */
#include "init.h"

static void tell_file(const char *key, const char *path)
{
    char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    if (n > 0)
        say_data(key, text, n);
}

static void tell_status(void)
{
    static const char *const wanted[] = {"CapEff:", "Seccomp:", "NoNewPrivs:"};
    char line[512];
    FILE *file = fopen("/proc/1/status", "re");
    while (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (!strncmp(line, wanted[i], strlen(wanted[i])))
                say_data("evidence status", line, strcspn(line, "\n"));
    if (file)
        fclose(file);
}

void tell_evidence(void)
{
    static const char *const namespaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"};
    struct utsname name;
    if (uname(&name) == 0)
        say_data("evidence release", name.release, strlen(name.release));
    tell_file("evidence boot_id", "/proc/sys/kernel/random/boot_id");
    tell_file("evidence os_release", "/etc/os-release");
    tell_file("evidence uid_map", "/proc/1/uid_map");
    tell_status();
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
        char path[64], link[64];
        snprintf(path, sizeof path, "/proc/1/ns/%s", namespaces[i]);
        ssize_t n = readlink(path, link, sizeof link);
        if (n > 0)
            say_data("evidence namespace", link, n);
    }
    say("evidence end");
}
