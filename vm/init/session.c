/*
 * What the SSH server runs in the place of a shell: this binary again, named sh. It reads what it is to do
 * from the SSH command:
 *
 *   run BASE64          execute a program beside the command; the words are NUL-terminated "key=value" strings
 *   run-file ID         the same, from the file that `put ID` wrote: an SSH command has at most 9000 bytes
 *   put ID              keep standard input for run-file
 *   signal ID NUMBER    send the program that was run with that ID a signal
 *   inside …            look at and change files, list processes: inside.c
 *
 * A program that cannot be executed is told from one that fails by the ID, which nothing else inside has
 * seen: standard error is then "ID text" and nothing else.
 */
#include "init.h"
#include <poll.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>

#define REQUEST_LIMIT (4 << 20)

static struct {
    char *argv[LIST_MAX], *env[LIST_MAX * 2];
    size_t argc, envc;
    const char *id, *cwd;
    char *user;
    int tty;
} request;

static pid_t command_pid(void)
{
    char text[32] = "";
    int fd = open("/command", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
        return -1;
    close(fd);
    return atoi(text);
}

int open_command(void)
{
    return pidfd_open(command_pid(), 0);
}

static size_t decode_base64(const char *text, char *data)
{
    size_t length = 0;
    uint32_t bits = 0;
    for (int count = 0; *text; text++) {
        int value = *text >= 'A' && *text <= 'Z' ? *text - 'A'
                  : *text >= 'a' && *text <= 'z' ? *text - 'a' + 26
                  : *text >= '0' && *text <= '9' ? *text - '0' + 52
                  : *text == '+' ? 62 : *text == '/' ? 63 : -1;
        if (value < 0)
            break;
        bits = bits << 6 | value;
        if ((count += 6) >= 8)
            data[length++] = bits >> (count -= 8);
    }
    return length;
}

static int is_id(const char *text)
{
    return strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32;
}

static void set_env(char *pair)
{
    size_t key = strcspn(pair, "=") + 1;
    for (size_t i = 0; i < request.envc; i++)
        if (!strncmp(request.env[i], pair, key)) {
            request.env[i] = pair;
            return;
        }
    if (request.envc + 1 < LIST_MAX * 2)
        request.env[request.envc++] = pair;
}

static const char *get_env(const char *key)
{
    size_t length = strlen(key);
    for (size_t i = 0; i < request.envc; i++)
        if (!strncmp(request.env[i], key, length) && request.env[i][length] == '=')
            return request.env[i] + length + 1;
    return NULL;
}

/* The program's environment is the command's with the request's over it. */
static void read_request(char *data, size_t length, int given_env)
{
    data[length] = 0;
    for (char *entry = data; entry < data + length; entry += strlen(entry) + 1) {
        if (given_env && !strncmp(entry, "env=", 4))
            set_env(entry + 4);
        else if (given_env)
            continue;
        else if (!strncmp(entry, "arg=", 4))
            append(request.argv, &request.argc, entry + 4);
        else if (!strncmp(entry, "cwd=", 4))
            request.cwd = entry + 4;
        else if (!strncmp(entry, "user=", 5))
            request.user = entry + 5;
        else if (!strncmp(entry, "id=", 3))
            request.id = entry + 3;
        else if (!strcmp(entry, "tty=1"))
            request.tty = 1;
    }
}

/* Where the child says why it could not execute: an exit code and a text, written at once. */
struct refusal {
    int code;
    char text[500];
};

_Noreturn static void refuse(int failure, int code, const char *what, const char *why)
{
    struct refusal refusal = {.code = code};
    snprintf(refusal.text, sizeof refusal.text, "%.300s: %s", what, why);
    write(failure, &refusal, sizeof refusal);
    _exit(code);
}

static void search(int failure)
{
    const char *name = request.argv[0], *path = get_env("PATH");
    int denied = 0;
    if (strchr(name, '/')) {
        execve(name, request.argv, request.env);
        refuse(failure, errno == ENOENT || errno == ENOTDIR ? 127 : 126, name, strerror(errno));
    }
    for (const char *part = path ? path : ""; *name; part++) {
        char whole[4096];
        size_t length = strcspn(part, ":");
        snprintf(whole, sizeof whole, "%.*s%s%s", (int)length, part, length ? "/" : "", name);
        execve(whole, request.argv, request.env);
        if (errno == EACCES || errno == ENOEXEC || errno == ELOOP)
            denied = denied ? denied : errno;
        part += length;
        if (!*part)
            break;
    }
    if (denied)
        refuse(failure, 126, name, strerror(denied));
    refuse(failure, 127, name, "not found in PATH");
}

void enter(int command)
{
    static const int each[] = {CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        if (setns(command, each[i]) < 0)
            _exit(125);
}

/* HOME follows the user, unless somebody chose the command's: then it is not its user's. */
static void move_home(const struct account *account)
{
    static struct account own;
    static char home[sizeof own.home + 8];
    char number[16];
    const char *given = get_env("HOME");
    snprintf(number, sizeof number, "%u", config.uid);
    if (given && (look_up(number, &own) || strcmp(given, own.home)))
        return;
    snprintf(home, sizeof home, "HOME=%s", account->home);
    set_env(home);
}

static void set_user(int failure)
{
    static struct account account;
    if (request.user) {
        char user[512];
        snprintf(user, sizeof user, "%s", request.user);
        const char *why = look_up(request.user, &account);
        if (why)
            refuse(failure, 126, user, why);
    } else {
        account.uid = config.uid;
        account.gid = config.gid;
        for (; account.groupc < config.groupc && account.groupc < ACCOUNT_GROUPS; account.groupc++)
            account.groups[account.groupc] = config.groups[account.groupc];
    }
    for (int fd = 0; fd < 3; fd++)
        fchown(fd, account.uid, -1); /* so that it may open /dev/stdout and the like */
    if (request.user)
        move_home(&account);
    limit_resources();
    if (setgroups(account.groupc, account.groups) < 0 || setgid(account.gid) < 0 || setuid(account.uid) < 0)
        refuse(failure, 126, "the user", strerror(errno));
}

/* The child: inside the command's namespaces, and its PID namespace in particular, in a session of its own. */
_Noreturn static void run_program(int command, int failure, char *data, size_t length)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < 65; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    score_oom("0");
    int group = open("/cgroup/command/cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (group >= 0) {
        write(group, "0", 1);
        close(group);
    }
    setsid();
    if (request.tty)
        ioctl(0, TIOCSCTTY, 1); /* 1: from the session of our parent */
    enter(command);
    umask(022);
    set_user(failure);
    read_request(data, length, 1);
    if (request.tty && !get_env("TERM"))
        set_env("TERM=xterm");
    const char *cwd = request.cwd ? request.cwd : config.cwd;
    if (chdir(cwd) < 0)
        refuse(failure, 126, cwd, strerror(errno));
    search(failure);
    _exit(127);
}

/* Returns the program's exit code; ends it when the SSH server, our parent, has gone. */
static int attend(pid_t program, int handle, int server)
{
    struct pollfd watched[2] = {{.fd = handle, .events = POLLIN}, {.fd = server, .events = POLLIN}};
    int status;
    while (poll(watched, 2, -1) < 0 || !(watched[0].revents & POLLIN))
        if (watched[1].revents) {
            kill(program, SIGKILL);
            watched[1].fd = -1;
        }
    return waitpid(program, &status, 0) < 0 ? 125 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int name_program(const char *id, pid_t program)
{
    char path[64];
    snprintf(path, sizeof path, "/run.%s", id);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0)
        dprintf(fd, "%d", program);
    return fd;
}

static void forget_program(const char *id, int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/run.%s", id);
    unlink(path);
    close(fd);
}

static int run_request(char *data, size_t length)
{
    int failure[2], server = pidfd_open(getppid(), 0), command = open_command();
    read_request(data, length, 0);
    if (!request.argc || !request.id || !is_id(request.id) || server < 0 || pipe2(failure, O_CLOEXEC) < 0)
        return 125;
    request.argv[request.argc] = NULL;
    for (size_t i = 0; i < config.envc; i++)
        set_env(config.env[i]);
    struct refusal refusal = {.code = 125, .text = "the command has ended"};
    if (command >= 0 && setns(command, CLONE_NEWPID) == 0) {
        failure[1] = above_stdio(failure[1]);
        pid_t program = fork();
        if (program == 0)
            run_program(command, failure[1], data, length);
        close(failure[1]);
        int handle = program < 0 ? -1 : pidfd_open(program, 0), name = name_program(request.id, program);
        if (program > 0 && read(failure[0], &refusal, sizeof refusal) <= 0) {
            if (!request.tty)
                for (int fd = 0; fd < 3; fd++)
                    close(fd); /* they are the program's alone: its end of input or output is the last */
            int code = attend(program, handle, server);
            forget_program(request.id, name);
            return code;
        }
        forget_program(request.id, name);
        waitpid(program, NULL, 0);
    }
    dprintf(2, "%s %.*s", request.id, (int)sizeof refusal.text, refusal.text);
    return refusal.code;
}

static char *read_stdin(size_t *length)
{
    char *data = malloc(REQUEST_LIMIT + 1);
    *length = 0;
    for (ssize_t n; data && (n = read(0, data + *length, REQUEST_LIMIT - *length)) > 0;)
        *length += n;
    return data;
}

static int put(const char *id)
{
    char path[64];
    size_t length;
    char *data = read_stdin(&length);
    snprintf(path, sizeof path, "/put.%s", id);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (!data || fd < 0)
        return 125;
    write_all(fd, data, length);
    return close(fd) < 0 ? 125 : 0;
}

static int run_file(const char *id)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/put.%s", id);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unlink(path);
    if (fd < 0 || fstat(fd, &status) < 0)
        return 125;
    char *data = malloc(status.st_size + 1);
    if (!data || read(fd, data, status.st_size) != status.st_size)
        return 125;
    close(fd);
    return run_request(data, status.st_size);
}

static pid_t find_program(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 ? atoi(text) : -1;
}

/* The host asks this of programs that it has started, also of one that is not quite there yet. */
static int send_signal(const char *id, int number)
{
    char path[64], ignored[4096];
    snprintf(path, sizeof path, "/run.%s", id);
    int news = inotify_init1(IN_CLOEXEC);
    inotify_add_watch(news, "/", IN_MODIFY);
    pid_t program;
    while ((program = find_program(path)) < 0) {
        struct pollfd ready = {.fd = news, .events = POLLIN};
        if (poll(&ready, 1, 2000) <= 0)
            return 1;
        read(news, ignored, sizeof ignored);
    }
    return kill(program, number) < 0;
}

int session(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "-c"))
        return 125;
    signal(SIGPIPE, SIG_IGN);
    read_config();
    char *words = argv[2], *verb = strsep(&words, " "), *first = words ? strsep(&words, " ") : NULL;
    if (!first)
        return 125;
    if (!strcmp(verb, "run")) {
        char *data = malloc(strlen(first) + 1);
        return data ? run_request(data, decode_base64(first, data)) : 125;
    }
    if (!strcmp(verb, "inside")) {
        char *path = calloc(1, words ? strlen(words) + 1 : 1);
        if (path && words)
            decode_base64(words, path);
        return path ? inside(first, path) : 125;
    }
    if (!is_id(first))
        return 125;
    if (!strcmp(verb, "put"))
        return put(first);
    if (!strcmp(verb, "run-file"))
        return run_file(first);
    if (!strcmp(verb, "signal") && words)
        return send_signal(first, atoi(words));
    return 125;
}
