/*
 * The healthcheck, with the states that hybrid/monitor.py has, which says why: until the first pass probes are
 * `start_interval` apart, and a failure counts once an interval, after the start period.
 */
#include "init.h"

enum { STARTING, HEALTHY, UNHEALTHY };

static const char *const names[] = {"starting", "healthy", "unhealthy"};

struct probe probe = {.pid = -1, .output = -1, .due = NEVER, .limit = NEVER};

static struct {
    int status, streak, passed;
    long long began;
} health;

static struct {
    int status, code;
    size_t length;
    char text[sizeof probe.text];
} told = {.status = -1};

void begin_probes(void)
{
    health.began = probe.due = now_ms();
}

static long pause_between(void)
{
    return health.status != STARTING || config.probe_start_interval > config.probe_interval ? config.probe_interval
                                                                                            : config.probe_start_interval;
}

static int counts(void)
{
    long long due = config.probe_start_period + (health.streak + 1LL) * config.probe_interval;
    return health.status != STARTING || now_ms() - health.began >= due;
}

static void take(int code)
{
    if (code == 0) {
        health.status = HEALTHY;
        health.streak = 0;
        if (!health.passed)
            say("ready");
        health.passed = 1;
    } else if (counts() && ++health.streak >= config.probe_retries)
        health.status = UNHEALTHY;
}

/* What is the same as the last time is not told again. */
static void tell(int code)
{
    char key[64];
    if (told.status == health.status && told.code == code && told.length == probe.length &&
        !memcmp(told.text, probe.text, probe.length))
        return;
    snprintf(key, sizeof key, "health %s %d %d", names[health.status], health.streak, code);
    say_data(key, probe.text, probe.length);
    told.status = health.status;
    told.code = code;
    told.length = probe.length;
    memcpy(told.text, probe.text, probe.length);
}

void start_probe(int null)
{
    int pipe_ends[2];
    make_pipe(pipe_ends);
    probe.due = NEVER;
    probe.length = 0;
    probe.late = 0;
    probe.pid = fork();
    if (probe.pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setsid();
        enter_group("probe");
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
        probe.due = now_ms() + pause_between();
}

/* The probe is too late: it is killed with all that it has started, and its end seen as any other's. */
void end_probe(void)
{
    probe.limit = NEVER;
    probe.late = 1;
    kill_probes();
    kill(-probe.pid, SIGKILL);
    kill(probe.pid, SIGKILL);
}

void read_probe(void)
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

void probe_ended(int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_probe();
    close(probe.output);
    probe.output = -1;
    probe.pid = -1;
    probe.limit = NEVER;
    if (probe.late)
        code = -1;
    take(code);
    tell(code);
    probe.due = now_ms() + pause_between();
}
