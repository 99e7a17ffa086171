/*
 * The way in for those who come later: SSH over virtio ports, for which the guest needs no network.
 *
 * A process of its own stays behind in the initramfs, in a mount and a network namespace that the image's
 * programs do not share, and waits at the ports hybrid.ssh.0 and on. Who connects on the host says "ssh\n". The
 * first to come is answered "send\n" and sends the SSH server with all that it needs, which costs a boot nothing
 * and a guest that nobody enters no memory. Then the answer is "ready\n", and SSH begins. The server wants a TCP
 * connection; bytes are passed between it and the port until one of them hangs up.
 */
#include "init.h"
#include <netinet/in.h>
#include <poll.h>

#define DOORS 31
#define PATIENCE 10000 /* ms for the next bytes of the server's files */
#define SERVER "/dropbear"
#define GREETING "ssh\n"

struct flow {
    char data[32768];
    size_t start, end;
};

static struct door {
    int port, server; /* -1: nobody is served */
    char greeting[sizeof GREETING - 1];
    struct flow in, out;
} doors[DOORS];

static int door_count, listener = -1, spare = -1, epoll, have_server;

/* ---- the server ------------------------------------------------------------------------- */

static int raise_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result = ioctl(fd, SIOCSIFFLAGS, &request);
    close(fd);
    return result;
}

static int listen_alone(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (unshare(CLONE_NEWNET) < 0 || raise_loopback() < 0)
        return -1;
    chmod("/", 0755); /* the server trusts no home directory that others may write to */
    mkdir("/bin", 0755);
    symlink("/init", "/bin/sh"); /* the shell of whoever logs in: session.c */
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : listen(listener, DOORS);
}

_Noreturn static void become_server(int connection)
{
    char *const argv[] = {"dropbear", "-i", "-s", "-j", "-k", "-z", "-r", "/hostkey", "-W", "262144", NULL};
    char *const env[] = {"LD_LIBRARY_PATH=/lib", "PATH=/", NULL};
    int null = open("/dev/null", O_RDWR);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    dup2(connection, 0);
    dup2(connection, 1);
    dup2(null, 2);
    execve(SERVER, argv, env);
    _exit(127);
}

/* Our end of a connection to a new server. */
static int start_server(void)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (getsockname(listener, (struct sockaddr *)&address, &size) < 0 || connect(ours, (void *)&address, size) < 0) {
        close(ours);
        return -1;
    }
    int theirs = accept4(listener, NULL, NULL, SOCK_CLOEXEC), on = 1;
    setsockopt(ours, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    setsockopt(theirs, IPPROTO_TCP, 1, &on, sizeof on);
    if (fork() == 0)
        become_server(theirs);
    close(theirs);
    fcntl(ours, F_SETFL, O_NONBLOCK);
    return ours;
}

/* A server that was started ahead may have given up waiting since. */
static int take_server(void)
{
    struct pollfd ended = {.fd = spare, .events = POLLRDHUP};
    int taken = spare;
    if (taken >= 0 && poll(&ended, 1, 0) > 0) {
        close(taken);
        taken = -1;
    }
    spare = -1;
    return taken >= 0 ? taken : start_server();
}

/* ---- its files, sent by the first who comes --------------------------------------------- */

static int receive(int port, char *data, size_t length)
{
    while (length) {
        struct pollfd ready = {.fd = port, .events = POLLIN};
        if (poll(&ready, 1, PATIENCE) <= 0)
            return -1;
        ssize_t n = read(port, data, length);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return -1;
        data += n < 0 ? 0 : n;
        length -= n < 0 ? 0 : n;
    }
    return 0;
}

static int receive_line(int port, char *line, size_t room)
{
    for (size_t i = 0; i < room; i++) {
        if (receive(port, line + i, 1) < 0)
            return -1;
        if (line[i] == '\n') {
            line[i] = 0;
            return 0;
        }
    }
    return -1;
}

static int receive_file(int port, const char *path, mode_t mode, size_t length)
{
    char part[65536], folder[256], temporary[] = "/receiving";
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    while (fd >= 0 && length) {
        size_t n = length < sizeof part ? length : sizeof part;
        if (receive(port, part, n) < 0) {
            close(fd);
            return -1;
        }
        write_all(fd, part, n);
        length -= n;
    }
    close(fd);
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    if (*folder)
        make_directories(folder);
    return rename(temporary, path);
}

/* Lines "MODE LENGTH PATH", each followed by a file's bytes, until "end". */
static int receive_files(int port)
{
    char line[256], path[200];
    unsigned mode;
    size_t length;
    for (;;) {
        if (receive_line(port, line, sizeof line) < 0)
            return -1;
        if (!strcmp(line, "end"))
            return 0;
        if (sscanf(line, "%o %zu %199s", &mode, &length, path) != 3 || *path != '/')
            return -1;
        if (receive_file(port, path, mode, length) < 0)
            return -1;
    }
}

/* ---- the doors -------------------------------------------------------------------------- */

static void leave(struct door *door)
{
    if (door->server >= 0)
        close(door->server);
    door->server = -1;
    door->in = door->out = (struct flow){.start = 0};
}

/* Moves what both ends allow; false when `from` has ended. */
static int flow_on(struct flow *flow, int from, int to, int *moved)
{
    for (;;) {
        if (flow->start == flow->end) {
            ssize_t n = read(from, flow->data, sizeof flow->data);
            if (n <= 0)
                return n < 0 && (errno == EAGAIN || errno == EINTR);
            flow->start = 0;
            flow->end = n;
        }
        ssize_t n = write(to, flow->data + flow->start, flow->end - flow->start);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        flow->start += n;
        *moved = 1;
    }
}

/* Whether the last bytes that came are the greeting: what was sent to a session that has ended may lie before it. */
static int is_greeted(struct door *door)
{
    char byte;
    while (read(door->port, &byte, 1) == 1) {
        memmove(door->greeting, door->greeting + 1, sizeof door->greeting - 1);
        door->greeting[sizeof door->greeting - 1] = byte;
    }
    return !memcmp(door->greeting, GREETING, sizeof door->greeting);
}

static int get_server(struct door *door)
{
    if (have_server)
        return 0;
    write_all(door->port, "send\n", 5);
    if (receive_files(door->port) < 0 || (listener < 0 && listen_alone() < 0))
        return -1;
    have_server = 1;
    return 0;
}

static void begin(struct door *door)
{
    memset(door->greeting, 0, sizeof door->greeting);
    if (get_server(door) < 0 || (door->server = take_server()) < 0)
        return;
    watch(epoll, door->server, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    write_all(door->port, "ready\n", 6);
    if (spare < 0)
        spare = start_server();
}

/* The kernel may tell of a host's first bytes before it tells that there is a host: EPOLLHUP then comes with them. */
static void serve_door(struct door *door, uint32_t events)
{
    if (events & EPOLLHUP)
        leave(door);
    if (door->server < 0 && is_greeted(door) && !(events & EPOLLHUP))
        begin(door);
    for (int moved = 1; moved && door->server >= 0;) {
        moved = 0;
        if (!flow_on(&door->in, door->port, door->server, &moved) || !flow_on(&door->out, door->server, door->port, &moved))
            leave(door);
    }
}

static void open_doors(void)
{
    int news = uevents();
    for (; door_count < config.ssh_ports && door_count < DOORS; door_count++) {
        char name[32];
        snprintf(name, sizeof name, "hybrid.ssh.%d", door_count);
        struct door *door = &doors[door_count];
        door->port = open_port(news, name, O_RDWR | O_NONBLOCK);
        door->server = -1;
        watch(epoll, door->port, EPOLLIN | EPOLLOUT | EPOLLET);
    }
    close(news);
}

static void note_command(const char *pid)
{
    int fd = open("/command", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    write_all(fd, pid, strlen(pid));
    close(fd);
}

/* The process that waits at the doors. It starts when the command does, to be in nobody's way before. */
_Noreturn static void keep_doors(int go)
{
    char pid[16] = "";
    if (read(go, pid, sizeof pid - 1) <= 0)
        _exit(0);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    mkdir("/proc", 0755);
    mkdir("/cgroup", 0755);
    /* Whoever mounts it without nsdelegate takes that away from all who have it mounted: see limits.c. */
    mount("cgroup2", "/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate");
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    score_oom("-1000");
    note_command(pid);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    open_doors();
    for (;;) {
        struct epoll_event ready[16];
        int count = epoll_wait(epoll, ready, 16, -1);
        for (int i = 0; i < count; i++)
            for (int d = 0; d < door_count; d++)
                if (ready[i].data.fd == doors[d].port)
                    serve_door(&doors[d], ready[i].events);
                else if (ready[i].data.fd == doors[d].server)
                    serve_door(&doors[d], 0);
    }
}

/* Returns where to write the command's pid. The mount namespace must be another before the root moves. */
int start_doors(int news)
{
    int go[2];
    make_pipe(go);
    pid_t pid = syscall(SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0); /* fork, but for the namespace */
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(go[1]);
        close(news);
        keep_doors(go[0]);
    }
    close(go[0]);
    return go[1];
}
