/*
 * The guest's first process: mounts the image's root, runs the one command that the host
 * describes in /config, carries its streams, and reports its marks and its exit status.
 *
 * It is the whole content of the initramfs beside the kernel modules, so an image needs no
 * kernel, shell or init of its own. The command runs as PID 1 of a PID namespace, as it does in
 * a container: signals mean the same, and the kernel ends what it leaves behind.
 *
 * Host and guest talk by
 *   ttyS1               events, one line each: "kernel", "init", "entrypoint", "ready", "exit 7", …
 *   hybrid.control      what the host wants: "signal 15", "eof 1024", "evidence"; each is answered by "+"
 *   hybrid.stdin        the bytes of the command's standard input
 *   hybrid.stdout, hybrid.stderr   the bytes it writes
 *
 * /config is a sequence of NUL-terminated "key=value" strings; vm/initramfs.py writes it.
 *
 * An exported disk boots this same init where nobody listens at those ports ("standalone"): it finds
 * the root by its partition's name, says events and output on the consoles, and the machine's power
 * button is the stop signal.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LIST_MAX 4096
#define NEVER (-1LL)
#define DISK_SECONDS 60 /* from one of the kernel's news to the next while the root is missing */
#define READING_SECONDS 15 /* a failure stays on the screen before it goes dark */

static struct {
    char *argv[LIST_MAX], *env[LIST_MAX], *probe[LIST_MAX];
    gid_t groups[LIST_MAX];
    size_t argc, envc, probec, groupc;
    const char *executable, *cwd, *hostname, *disk, *partition;
    uid_t uid;
    gid_t gid;
    long probe_interval, probe_timeout; /* ms */
    int has_stdin, standalone, stop_signal;
    long stop_timeout; /* ms */
} config;

/* Where something is written to: one port of the host's or, standalone, both consoles. */
struct sink {
    int fds[2];
};

static struct sink events = {{-1, -1}};
static char last_written = '\n';

static void write_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t n = write(fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        data += n;
        length -= n;
    }
}

static void write_to(const struct sink *sink, const char *data, size_t length)
{
    for (int i = 0; i < 2; i++)
        if (sink->fds[i] >= 0)
            write_all(sink->fds[i], data, length);
    if (length)
        last_written = data[length - 1];
}

/* On a console an event is a line of its own, and not to be taken for the command's output. */
static void say(const char *format, ...)
{
    char line[2048];
    const char *prefix = !config.standalone ? "" : last_written == '\n' ? "hybrid: " : "\nhybrid: ";
    int start = snprintf(line, sizeof line, "%s", prefix);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line + start, sizeof line - 1 - start, format, args);
    va_end(args);
    if (length < 0)
        return;
    length += start;
    if ((size_t)length > sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    write_to(&events, line, length);
}

/* What a program wrote: the host is told it in hex, a person in what can be printed of it. */
static void say_data(const char *key, const char *data, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    char text[1025];
    size_t n = 0;
    for (size_t i = 0; i < length && n + 2 < sizeof text; i++)
        if (config.standalone)
            text[n++] = data[i] >= ' ' && data[i] <= '~' ? data[i] : ' ';
        else {
            text[n++] = digits[(unsigned char)data[i] >> 4];
            text[n++] = digits[(unsigned char)data[i] & 15];
        }
    text[n] = 0;
    say("%s %s", key, text);
}

static void power_off(void)
{
    tcdrain(events.fds[0]);
    tcdrain(events.fds[1]);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static void die(const char *what)
{
    say("failed %s: %s", what, strerror(errno));
    if (config.standalone)
        sleep(READING_SECONDS);
    else
        dprintf(2, "hybrid init: %s: %s\n", what, strerror(errno));
    power_off();
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* ---- the description ------------------------------------------------------------------ */

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

static void append(char **list, size_t *count, char *value)
{
    if (*count + 1 >= LIST_MAX) {
        errno = E2BIG;
        die("config");
    }
    list[(*count)++] = value;
}

static void read_config(void)
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
        else if (KEY("probe_timeout")) config.probe_timeout = strtol(value, 0, 10);
        else if (KEY("stdin")) config.has_stdin = *value == '1';
        else if (KEY("standalone")) config.standalone = *value == '1';
        else if (KEY("stop_signal")) config.stop_signal = atoi(value);
        else if (KEY("stop_timeout")) config.stop_timeout = strtol(value, 0, 10);
#undef KEY
    }
}

/* ---- the machine ---------------------------------------------------------------------- */

/* Loads FOLDER/00.ko and on. A driver may refuse, since its hardware is not there; other modules may not. */
static void load_modules(const char *folder, int may_refuse)
{
    char path[32];
    for (int i = 0;; i++) {
        snprintf(path, sizeof path, "%s/%02d.ko", folder, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && !may_refuse)
            die(path);
        close(fd);
        unlink(path); /* its memory is the guest's */
    }
}

static struct sink open_consoles(void)
{
    const int flags = O_WRONLY | O_NOCTTY | O_CLOEXEC;
    return (struct sink){{open("/dev/tty0", flags), open("/dev/ttyS0", flags)}};
}

static struct sink open_events(void)
{
    int fd = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    struct termios settings;
    if (fd >= 0 && tcgetattr(fd, &settings) == 0) {
        cfmakeraw(&settings);
        settings.c_cflag |= CLOCAL;
        tcsetattr(fd, TCSANOW, &settings);
    }
    return (struct sink){{fd, -1}};
}

/* A device appears some time after its driver: each try waits for the kernel's next uevent. */
static int uevents(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("uevents");
    return fd;
}

static void next_uevent(int news, const char *wanted)
{
    char ignored[4096];
    if (recv(news, ignored, sizeof ignored, 0) >= 0 || errno == EINTR || errno == ENOBUFS)
        return;
    if (errno == EAGAIN) /* the time-out */
        errno = ENODEV;
    die(wanted);
}

static int is_partition(const char *device, const char *name)
{
    char path[320], text[1024], wanted[128];
    snprintf(path, sizeof path, "/sys/class/block/%s/uevent", device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return 0;
    text[n] = 0;
    snprintf(wanted, sizeof wanted, "\nPARTNAME=%s\n", name);
    return strstr(text, wanted) != NULL;
}

/* The root's device, on whatever bus the machine has its disk. */
static const char *find_partition(int news, const char *name)
{
    static char found[320];
    const struct timeval patience = {.tv_sec = DISK_SECONDS};
    setsockopt(news, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (;;) {
        DIR *devices = opendir("/sys/class/block");
        for (struct dirent *entry; devices && !*found && (entry = readdir(devices));)
            if (is_partition(entry->d_name, name))
                snprintf(found, sizeof found, "/dev/%s", entry->d_name);
        if (devices)
            closedir(devices);
        if (*found)
            return found;
        next_uevent(news, "finding the root disk");
    }
}

static int try_port(const char *name, int flags)
{
    int fd = -1;
    DIR *ports = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; ports && fd < 0 && (entry = readdir(ports));) {
        char path[320], found[64] = "";
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        ssize_t n = read(file, found, sizeof found - 1);
        close(file);
        if (n > 0 && !strncmp(found, name, strlen(name)) && found[strlen(name)] == '\n') {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            fd = open(path, flags | O_CLOEXEC);
        }
    }
    if (ports)
        closedir(ports);
    return fd;
}

static int open_port(int news, const char *name, int flags)
{
    for (;;) {
        int fd = try_port(name, flags);
        if (fd >= 0)
            return fd;
        next_uevent(news, name);
    }
}

static void must_mount(const char *type, const char *target, unsigned long flags, const char *options)
{
    mkdir(target, 0755);
    if (mount(type, target, type, flags, options) < 0)
        die(target);
}

static void bind_file(const char *source, const char *target)
{
    int fd = open(target, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 || errno == ELOOP) /* a link of the image's own is left alone */
        mount(source, target, NULL, MS_BIND, NULL);
}

static void enter_root(void)
{
    const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mkdir("/root", 0755);
    if (mount(config.disk, "/root", "ext4", MS_NOATIME, NULL) < 0)
        die("the root disk");
    mkdir("/root/etc", 0755);
    bind_file("/etc/hosts", "/root/etc/hosts");
    bind_file("/etc/hostname", "/root/etc/hostname");
    mkdir("/root/dev", 0755);
    mkdir("/root/sys", 0755);
    if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) < 0 || mount("/sys", "/root/sys", NULL, MS_MOVE, NULL) < 0)
        die("moving mounts");
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        die("entering the root");
    mkdir("/proc", 0755);
    must_mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
    must_mount("tmpfs", "/dev/shm", safe, "mode=1777,size=64m");
    must_mount("mqueue", "/dev/mqueue", safe, NULL);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, NULL);
    symlink("/proc/self/fd", "/dev/fd");
    symlink("/proc/self/fd/0", "/dev/stdin");
    symlink("/proc/self/fd/1", "/dev/stdout");
    symlink("/proc/self/fd/2", "/dev/stderr");
}

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        die("the loopback interface");
    close(fd);
}

/* ---- the command ---------------------------------------------------------------------- */

static void become_user(void)
{
    struct rlimit files = {1024, 1048576}; /* hybrid/defaults.py */
    setrlimit(RLIMIT_NOFILE, &files);
    if (setgroups(config.groupc, config.groups) < 0 || setgid(config.gid) < 0 || setuid(config.uid) < 0)
        die("the user");
}

static void make_directories(const char *path)
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

/* In the child: what is written to `failure` is the errno of what went wrong; execve closes it. */
static void execute(int stdio[3], int failure)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    int error = 0;
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        error = errno;
    for (int fd = 0; fd < 3; fd++)
        dup2(stdio[fd], fd);
    if (!error && chdir(config.cwd) < 0)
        error = errno;
    if (!error) {
        become_user();
        execve(config.executable, config.argv, config.env);
        error = errno;
    }
    write(failure, &error, sizeof error);
    _exit(error == ENOENT ? 127 : 126);
}

/* Low descriptors would be overwritten by dup2 in the child. */
static int above_stdio(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    close(fd);
    return high;
}

static void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        die("pipe");
    ends[0] = above_stdio(ends[0]);
    ends[1] = above_stdio(ends[1]);
}

/* ---- the healthcheck ------------------------------------------------------------------ */

static struct {
    pid_t pid;
    int output;
    char text[256];
    size_t length;
    long long due, limit; /* when the next probe starts, when this one is too late; ms */
    char reported[256];
    int reported_code;
} probe = {.pid = -1, .output = -1, .due = NEVER, .limit = NEVER, .reported_code = -1};

static void start_probe(int null)
{
    int pipe_ends[2];
    make_pipe(pipe_ends);
    probe.due = NEVER;
    probe.length = 0;
    probe.pid = fork();
    if (probe.pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setsid();
        dup2(null, 0);
        dup2(pipe_ends[1], 1);
        dup2(pipe_ends[1], 2);
        if (chdir(config.cwd) < 0)
            _exit(126);
        become_user();
        execvpe(config.probe[0], config.probe, config.env);
        dprintf(2, "%s: %s", config.probe[0], strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
    }
    close(pipe_ends[1]);
    fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK);
    probe.output = pipe_ends[0];
    if (probe.pid > 0)
        probe.limit = now_ms() + config.probe_timeout;
    else
        probe.due = now_ms() + config.probe_interval;
}

static void read_probe(void)
{
    char ignored[512];
    for (;;) {
        size_t room = sizeof probe.text - probe.length;
        ssize_t n = room ? read(probe.output, probe.text + probe.length, room) : read(probe.output, ignored, sizeof ignored);
        if (n <= 0)
            return;
        if (room)
            probe.length += n;
    }
}

static void probe_ended(int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_probe();
    close(probe.output);
    probe.output = -1;
    probe.pid = -1;
    probe.limit = NEVER;
    if (code == 0) {
        say("ready");
        return;
    }
    probe.due = now_ms() + config.probe_interval;
    if (code != probe.reported_code || memcmp(probe.reported, probe.text, probe.length)) {
        char key[32];
        snprintf(key, sizeof key, "probe %d", code);
        say_data(key, probe.text, probe.length);
        probe.reported_code = code;
        memcpy(probe.reported, probe.text, probe.length);
    }
}

/* ---- evidence ------------------------------------------------------------------------- */

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

static void tell_evidence(void)
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

/* ---- streams -------------------------------------------------------------------------- */

struct stream {
    int from;
    struct sink to;
    char data[65536];
};

static struct {
    int from, to;
    char data[65536];
    size_t start, end;
    unsigned long long total, stop_after; /* bytes passed on; where the input ends */
} input = {.from = -1, .to = -1, .stop_after = ~0ULL};
static struct stream output[2];

/* Copies what is there; false at the end of the stream. */
static int pump_output(struct stream *stream)
{
    ssize_t n = read(stream->from, stream->data, sizeof stream->data);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    write_to(&stream->to, stream->data, n);
    return n > 0;
}

static void close_input(void)
{
    close(input.to);
    input.to = -1;
}

/* Moves standard input as far as both ends allow. The port is edge-triggered: it is read until empty. */
static void pump_input(void)
{
    while (input.to >= 0) {
        if (input.start == input.end) {
            if (input.total >= input.stop_after) {
                close_input();
                return;
            }
            ssize_t n = read(input.from, input.data, sizeof input.data);
            if (n <= 0)
                return;
            input.start = 0;
            input.end = n;
        }
        ssize_t n = write(input.to, input.data + input.start, input.end - input.start);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            close_input();
            return;
        }
        input.start += n;
        input.total += n;
    }
}

/* ---- the life of the command ---------------------------------------------------------- */

static pid_t command = -1;
static long long stop_limit = NEVER; /* when a command that was asked to stop is killed; ms */
static int buttons[2] = {-1, -1};

static void stop_command(void)
{
    kill(command, config.stop_signal);
    if (stop_limit == NEVER)
        stop_limit = now_ms() + config.stop_timeout;
}

/* ACPI knows two forms of power button; a machine may have both. */
static void open_buttons(void)
{
    char path[32], name[64];
    for (int i = 0, found = 0; i < 32 && found < 2; i++) {
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, EVIOCGNAME(sizeof name), name) > 0 && !strcmp(name, "Power Button"))
            buttons[found++] = fd;
        else if (fd >= 0)
            close(fd);
    }
}

static void read_button(int button)
{
    struct input_event event;
    while (read(button, &event, sizeof event) == sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
            stop_command();
}

static void obey(char *line)
{
    if (!strncmp(line, "signal ", 7) && command > 0)
        kill(command, atoi(line + 7));
    else if (!strncmp(line, "eof ", 4)) {
        input.stop_after = strtoull(line + 4, NULL, 10);
        pump_input();
    } else if (!strcmp(line, "evidence"))
        tell_evidence();
}

static void read_control(int port)
{
    static char line[256];
    static size_t length;
    char data[256];
    for (ssize_t n; (n = read(port, data, sizeof data)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            if (data[i] == '\n') {
                line[length] = 0;
                obey(line);
                length = 0;
                write(port, "+", 1); /* who spoke may hang up now; QEMU drops what is unread then */
            } else if (length < sizeof line - 1)
                line[length++] = data[i];
}

static int reap(void)
{
    int status, code = -1;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == command)
            code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        else if (pid == probe.pid)
            probe_ended(status);
    return code;
}

static void watch(int epoll, int fd, uint32_t when)
{
    struct epoll_event event = {.events = when, .data.fd = fd};
    if (fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll");
}

/* Does what is due; returns how long nothing else will be, in ms for epoll. */
static int run_timers(int null)
{
    long long now = now_ms(), next = NEVER;
    if (stop_limit != NEVER && stop_limit <= now) {
        kill(command, SIGKILL);
        stop_limit = NEVER;
    }
    if (probe.due != NEVER && probe.due <= now)
        start_probe(null);
    if (probe.limit != NEVER && probe.limit <= now) {
        kill(-probe.pid, SIGKILL);
        kill(probe.pid, SIGKILL);
        probe.limit = NEVER;
    }
    if (probe.pid > 0 && probe.output >= 0)
        read_probe();
    next = probe.due != NEVER ? probe.due : probe.limit;
    if (next == NEVER || (stop_limit != NEVER && stop_limit < next))
        next = stop_limit;
    return next == NEVER ? -1 : next > now ? (int)(next - now) : 0;
}

static void exec_result(int failure)
{
    int error = 0;
    if (read(failure, &error, sizeof error) == sizeof error) {
        say("exec-failed %d", error);
    } else {
        say("entrypoint");
        if (config.probec)
            probe.due = now_ms();
        else if (config.standalone)
            say("ready"); /* a host of ours knows that nothing more will come */
    }
    close(failure);
}

/* Serves the command until it has ended and its output has been passed on; returns its exit code. */
static int serve(int epoll, int signals, int control, int failure, int null)
{
    int code = -1, open_outputs = 2;
    while (code < 0 || open_outputs > 0) {
        struct epoll_event ready[8];
        int count = epoll_wait(epoll, ready, 8, run_timers(null));
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            struct signalfd_siginfo info;
            if (fd == signals) {
                while (read(signals, &info, sizeof info) > 0)
                    if (info.ssi_signo == SIGINT) /* Ctrl-Alt-Del */
                        stop_command();
                int ended = reap();
                code = ended >= 0 ? ended : code;
            } else if (fd == control)
                read_control(control);
            else if (fd == failure)
                exec_result(failure);
            else if (fd == buttons[0] || fd == buttons[1])
                read_button(fd);
            else if (fd == input.from || fd == input.to)
                pump_input();
            else
                for (int o = 0; o < 2; o++)
                    if (fd == output[o].from && !pump_output(&output[o])) {
                        close(output[o].from);
                        output[o].from = -1;
                        open_outputs--;
                    }
        }
    }
    return code;
}

int main(void)
{
    must_mount("devtmpfs", "/dev", MS_NOSUID, NULL);
    read_config();
    events = config.standalone ? open_consoles() : open_events();
    say("kernel");
    must_mount("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    int news = uevents();
    load_modules("/modules", 0);
    load_modules("/drivers", 1);
    if (config.partition)
        config.disk = find_partition(news, config.partition);
    enter_root();
    loopback_up();
    sethostname(config.hostname, strlen(config.hostname));
    make_directories(config.cwd);

    int in[2], failure[2], null = above_stdio(open("/dev/null", O_RDWR | O_CLOEXEC));
    int ends[2][2];
    int control = -1;
    if (config.standalone) {
        output[0].to = output[1].to = events;
        open_buttons();
    } else {
        control = open_port(news, "hybrid.control", O_RDWR | O_NONBLOCK);
        output[0].to = (struct sink){{open_port(news, "hybrid.stdout", O_WRONLY), -1}};
        output[1].to = (struct sink){{open_port(news, "hybrid.stderr", O_WRONLY), -1}};
    }
    make_pipe(failure);
    make_pipe(ends[0]);
    make_pipe(ends[1]);
    in[0] = null;
    if (config.has_stdin) {
        make_pipe(in);
        input.from = open_port(news, "hybrid.stdin", O_RDONLY | O_NONBLOCK);
        input.to = in[1];
        fcntl(input.to, F_SETFL, O_NONBLOCK);
    }
    close(news);

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (config.standalone) {
        sigaddset(&set, SIGINT);
        reboot(RB_DISABLE_CAD);
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);

    if (unshare(CLONE_NEWPID) < 0)
        die("the PID namespace");
    say("init");
    command = fork();
    if (command < 0)
        die("fork");
    if (command == 0) {
        signal(SIGPIPE, SIG_DFL);
        execute((int[]){in[0], ends[0][1], ends[1][1]}, failure[1]);
    }
    close(failure[1]);
    for (int o = 0; o < 2; o++) {
        close(ends[o][1]);
        output[o].from = ends[o][0];
    }
    if (config.has_stdin)
        close(in[0]);

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, signals, EPOLLIN);
    watch(epoll, control, EPOLLIN | EPOLLET);
    watch(epoll, failure[0], EPOLLIN);
    watch(epoll, buttons[0], EPOLLIN);
    watch(epoll, buttons[1], EPOLLIN);
    watch(epoll, output[0].from, EPOLLIN);
    watch(epoll, output[1].from, EPOLLIN);
    watch(epoll, input.from, EPOLLIN | EPOLLET);
    watch(epoll, input.to, EPOLLOUT | EPOLLET);

    int code = serve(epoll, signals, control, failure[0], null);
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    say("exit %d", code);
    power_off();
    return 0;
}
