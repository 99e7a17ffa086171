/* The story: the machine, the command, its life, its end. */
#include "init.h"

static pid_t command = -1;
static int doors = -1; /* where the command's pid is told to those who let others in */
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

/*
 * What is said to whom spoke on the control port. Data may come before the kernel has heard that the host has
 * connected, and until then it lets nobody write: the answer waits for that.
 */
static struct {
    char data[256];
    size_t length;
} answer;

static void add_answer(const char *text)
{
    size_t length = strlen(text);
    if (answer.length + length <= sizeof answer.data) {
        memcpy(answer.data + answer.length, text, length);
        answer.length += length;
    }
}

static void give_answer(int port)
{
    ssize_t n = answer.length ? write(port, answer.data, answer.length) : 0;
    if (n > 0) {
        answer.length -= n;
        memmove(answer.data, answer.data + n, answer.length);
    }
}

static void tell_input(void)
{
    char total[32];
    snprintf(total, sizeof total, "%llu", input.total);
    add_answer(total);
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
    else if (!strncmp(line, "resize ", 7))
        resize_terminal(line + 7);
    else if (!strcmp(line, "input"))
        tell_input();
    else
        obey_names(line);
}

static void read_control(int port)
{
    static char line[256];
    static size_t length;
    char data[256];
    give_answer(port);
    for (ssize_t n; (n = read(port, data, sizeof data)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            if (data[i] == '\n') {
                line[length] = 0;
                obey(line);
                length = 0;
                add_answer("+"); /* who spoke may hang up now; QEMU drops what is unread then */
                give_answer(port);
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

void watch(int epoll, int fd, uint32_t when)
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
    if (probe.limit != NEVER && probe.limit <= now)
        end_probe();
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
        if (doors >= 0)
            dprintf(doors, "%d", command);
        close(doors);
        if (config.probec)
            begin_probes();
        else if (config.standalone)
            say("ready"); /* a host of ours knows that nothing more will come */
    }
    close(failure);
}

/* Serves the command until it has ended and its output has been passed on; returns its exit code. */
static int serve(int epoll, int signals, int control, int failure, int null)
{
    int code = -1, open_outputs = config.tty ? 1 : 2;
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
                if (ended >= 0) {
                    code = ended;
                    end_terminal();
                }
            } else if (fd == memory_events())
                tell_oom();
            else if (fd == control)
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

int main(int argc, char **argv)
{
    if (getpid() != 1)
        return session(argc, argv);
    must_mount("devtmpfs", "/dev", MS_NOSUID, NULL);
    read_config();
    events = config.standalone ? open_consoles() : open_events();
    say("kernel");
    must_mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
    must_mount("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    int news = uevents();
    load_modules("/modules", 0);
    load_modules("/drivers", 1);
    if (config.partition)
        config.disk = find_partition(news, config.partition);
    if (config.ssh_ports)
        doors = start_doors(news);
    enter_root();
    network_up(news);
    sethostname(config.hostname, strlen(config.hostname));
    mount_volumes();

    int failure[2], null = above_stdio(open("/dev/null", O_RDWR | O_CLOEXEC)), control = -1;
    struct stdio streams;
    if (config.standalone) {
        output[0].to = output[1].to = events;
        open_buttons();
    } else {
        control = open_port(news, "hybrid.control", O_RDWR | O_NONBLOCK);
        output[0].to = (struct sink){{open_port(news, "hybrid.stdout", O_WRONLY), -1}};
        output[1].to = (struct sink){{open_port(news, "hybrid.stderr", O_WRONLY), -1}};
        stream_index = (struct sink){{open_port(news, "hybrid.index", O_WRONLY), -1}};
    }
    make_pipe(failure);
    open_streams(news, null, &streams);
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
        execute(streams.fds, failure[1]);
    }
    close(failure[1]);
    for (int fd = 0; fd < 3; fd++)
        if (streams.fds[fd] != null && !config.tty)
            close(streams.fds[fd]);

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, signals, EPOLLIN);
    watch(epoll, control, EPOLLIN | EPOLLOUT | EPOLLET);
    watch(epoll, failure[0], EPOLLIN);
    watch(epoll, buttons[0], EPOLLIN);
    watch(epoll, buttons[1], EPOLLIN);
    watch(epoll, output[0].from, EPOLLIN);
    watch(epoll, output[1].from, EPOLLIN);
    watch(epoll, memory_events(), EPOLLPRI);
    watch(epoll, input.from, EPOLLIN | EPOLLET);
    watch(epoll, input.to, EPOLLOUT | EPOLLET);

    int code = serve(epoll, signals, control, failure[0], null);
    tell_oom();
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    say("exit %d", code);
    power_off();
    return 0;
}
