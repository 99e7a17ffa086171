/* The description of the command, /config, which vm/initramfs.py writes. */
#include "init.h"

struct config config;

static char *slurp(const char *path, size_t *length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0)
        die(path);
    char *data = malloc(status.st_size + 1);
    size_t done = 0;
    for (ssize_t n; done < (size_t)status.st_size; done += n)
        if ((n = read(fd, data + done, status.st_size - done)) <= 0)
            die(path);
    close(fd);
    data[done] = 0;
    *length = done;
    return data;
}

void append(char **list, size_t *count, char *value)
{
    if (*count + 1 >= LIST_MAX) {
        errno = E2BIG;
        die("config");
    }
    list[(*count)++] = value;
}

void read_config(void)
{
    size_t length;
    char *data = slurp("/config", &length);
    for (char *entry = data; entry < data + length; entry += strlen(entry) + 1) {
        char *value = strchr(entry, '=');
        if (!value)
            continue;
        size_t key = value++ - entry;
#define KEY(name) (key == sizeof name - 1 && !memcmp(entry, name, key))
        if (KEY("arg")) append(config.argv, &config.argc, value);
        else if (KEY("env")) {
            append(config.env, &config.envc, value);
            if (!strncmp(value, "PATH=", 5)) /* where execvpe looks for the probe */
                setenv("PATH", value + 5, 1);
        }
        else if (KEY("probe")) append(config.probe, &config.probec, value);
        else if (KEY("group") && config.groupc < LIST_MAX) config.groups[config.groupc++] = strtoul(value, 0, 10);
        else if (KEY("executable")) config.executable = value;
        else if (KEY("cwd")) config.cwd = value;
        else if (KEY("hostname")) config.hostname = value;
        else if (KEY("disk")) config.disk = value;
        else if (KEY("partition")) config.partition = value;
        else if (KEY("uid")) config.uid = strtoul(value, 0, 10);
        else if (KEY("gid")) config.gid = strtoul(value, 0, 10);
        else if (KEY("probe_interval")) config.probe_interval = strtol(value, 0, 10);
        else if (KEY("probe_start_interval")) config.probe_start_interval = strtol(value, 0, 10);
        else if (KEY("probe_start_period")) config.probe_start_period = strtol(value, 0, 10);
        else if (KEY("probe_retries")) config.probe_retries = atoi(value);
        else if (KEY("probe_timeout")) config.probe_timeout = strtol(value, 0, 10);
        else if (KEY("stdin")) config.has_stdin = *value == '1';
        else if (KEY("standalone")) config.standalone = *value == '1';
        else if (KEY("tty")) config.tty = *value == '1';
        else if (KEY("idle")) config.idle = *value == '1';
        else if (KEY("ssh_ports")) config.ssh_ports = atoi(value);
        else if (KEY("stop_signal")) config.stop_signal = atoi(value);
        else if (KEY("stop_timeout")) config.stop_timeout = strtol(value, 0, 10);
        else if (KEY("interface") && config.interfacec < 16) config.interfaces[config.interfacec++] = value;
        else if (KEY("gateway")) config.gateway = value;
        else if (KEY("mount")) append(config.mounts, &config.mountc, value);
        else if (KEY("rlimit") && config.rlimitc < 32) config.rlimits[config.rlimitc++] = value;
        else if (KEY("read_only")) config.read_only = *value == '1';
        else if (KEY("share")) config.share = value;
        else if (KEY("shm")) config.shm = value;
        else if (KEY("pids")) config.pids = value;
        else if (KEY("oom_score_adj")) config.oom_score_adj = value;
#undef KEY
    }
}
