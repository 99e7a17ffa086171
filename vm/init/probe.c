/* The healthcheck. */
#include "init.h"

struct probe probe = {.pid = -1, .output = -1, .due = NEVER, .limit = NEVER, .reported_code = -1};

void start_probe(int null)
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
