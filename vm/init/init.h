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
 *   hybrid.control      what the host wants: "signal 15", "eof 1024", "evidence", "resize 24 80", "input",
 *                       names (net.c); each is answered by "+", after what it asked for
 *   hybrid.stdin        the bytes of the command's standard input
 *   hybrid.stdout, hybrid.stderr   the bytes it writes
 *   hybrid.index        when it wrote them: "STREAM BYTES-SO-FAR MS-SINCE-BOOT", a line each
 *   hybrid.ssh.0 …      the way in for others: ssh.c
 *
 * /config is a sequence of NUL-terminated "key=value" strings; vm/initramfs.py writes it.
 *
 * An exported disk boots this same init where nobody listens at those ports ("standalone"): it finds
 * the root by its partition's name, says events and output on the consoles, and the machine's power
 * button is the stop signal.
 *
 * All files of this folder are compiled together: main.c tells the story, the others its chapters.
 */
#ifndef INIT_H
#define INIT_H
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
#include <stdint.h>
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

/* ---- config.c: the description of the command ------------------------------------------- */

struct config {
    char *argv[LIST_MAX], *env[LIST_MAX], *probe[LIST_MAX];
    gid_t groups[LIST_MAX];
    size_t argc, envc, probec, groupc;
    const char *executable, *cwd, *hostname, *disk, *partition;
    uid_t uid;
    gid_t gid;
    long probe_interval, probe_timeout, probe_start_interval, probe_start_period; /* ms */
    int probe_retries;
    int has_stdin, standalone, stop_signal, tty, ssh_ports, idle;
    long stop_timeout; /* ms */
    char *mounts[LIST_MAX], *rlimits[32];
    size_t mountc, rlimitc;
    char *interfaces[16];
    size_t interfacec;
    const char *gateway;
    int read_only;
    const char *share, *shm, *pids, *oom_score_adj; /* NULL where the spec says nothing */
};

extern struct config config;

void read_config(void);
void append(char **list, size_t *count, char *value);

/* ---- say.c: what the host is told ------------------------------------------------------- */

/* Where something is written to: one port of the host's or, standalone, both consoles. */
struct sink {
    int fds[2];
};

extern struct sink events;

void write_all(int fd, const char *data, size_t length);
void write_to(const struct sink *sink, const char *data, size_t length);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_data(const char *key, const char *data, size_t length);
_Noreturn void power_off(void);
_Noreturn void die(const char *what);
long long now_ms(void);

/* ---- machine.c: modules, ports, the root ------------------------------------------------ */

void load_modules(const char *folder, int may_refuse);
struct sink open_consoles(void);
struct sink open_events(void);
int uevents(void);
const char *find_partition(int news, const char *name);
int open_port(int news, const char *name, int flags);
void must_mount(const char *type, const char *target, unsigned long flags, const char *options);
void enter_root(void);
void next_uevent(int news, const char *wanted);
extern int hosts_file; /* of the initramfs, mounted at /etc/hosts */

/* ---- net.c: interfaces and names -------------------------------------------------------- */

void network_up(int news);
int obey_names(char *line);

/* ---- command.c: executing it ------------------------------------------------------------ */

void score_oom(const char *score);
void limit_resources(void);
void become_user(void);
void make_directories(const char *path);
_Noreturn void execute(int stdio[3], int failure);
int above_stdio(int fd);
void make_pipe(int ends[2]);

/* ---- volumes.c: what the spec mounts ---------------------------------------------------- */

void open_shares(void);
void mount_volumes(void);

/* ---- limits.c: the command's control group and resource limits -------------------------- */

void make_group(void);
void enter_group(const char *below);
void show_group(void);
void kill_probes(void);
int memory_events(void);
void tell_oom(void);
void set_limits(void);

/* ---- probe.c: the healthcheck ----------------------------------------------------------- */

struct probe {
    pid_t pid;
    int output;
    char text[1000];
    size_t length;
    long long due, limit; /* when the next probe starts, when this one is too late; ms */
    int late;
};

extern struct probe probe;

void begin_probes(void);
void start_probe(int null);
void end_probe(void);
void read_probe(void);
void probe_ended(int status);

/* ---- evidence.c: what is seen of the isolation ------------------------------------------ */

void tell_evidence(void);

/* ---- streams.c: the command's streams --------------------------------------------------- */

struct input {
    int from, to;
    char data[65536];
    size_t start, end;
    unsigned long long total, stop_after; /* bytes passed on; where the input ends */
};

struct stream {
    int from;
    struct sink to;
    char data[65536];
    unsigned long long total;
};

extern struct input input;
extern struct stream output[2];

extern struct sink stream_index;

struct stdio {
    int fds[3];
};

void end_terminal(void);
void open_streams(int news, int null, struct stdio *streams);
void resize_terminal(const char *size);
int pump_output(struct stream *stream);
void pump_input(void);

/* ---- main.c ----------------------------------------------------------------------------- */

void watch(int epoll, int fd, uint32_t when);

/* ---- ssh.c, session.c, inside.c, account.c: the way in for others -------------------- */

#define ACCOUNT_GROUPS 1024

struct account {
    uid_t uid;
    gid_t gid;
    gid_t groups[ACCOUNT_GROUPS];
    size_t groupc;
    char name[256], home[1024];
};

int start_doors(int news);
int session(int argc, char **argv);
int open_command(void);
int inside(const char *verb, char *path);
void enter(int command);
const char *look_up(char *user, struct account *account);

#endif
