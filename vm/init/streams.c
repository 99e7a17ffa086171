/* The command's streams, between its pipes and the ports. */
#include "init.h"

struct input input = {.from = -1, .to = -1, .stop_after = ~0ULL};
struct stream output[2];
struct sink stream_index = {{-1, -1}};

static int terminal = -1, terminal_slave = -1;

/* The command's terminal. The slave stays open here too: a command may close its own for a while. */
static void open_terminal(int *master, int *slave)
{
    char path[64];
    int number, unlock = 0;
    terminal = *master = above_stdio(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    if (*master < 0 || ioctl(*master, TIOCSPTLCK, &unlock) < 0 || ioctl(*master, TIOCGPTN, &number) < 0)
        die("the terminal");
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    *slave = terminal_slave = above_stdio(open(path, O_RDWR | O_NOCTTY | O_CLOEXEC));
}

void end_terminal(void)
{
    close(terminal_slave);
    terminal_slave = -1;
}

void resize_terminal(const char *size)
{
    struct winsize window = {.ws_row = 0};
    if (terminal >= 0 && sscanf(size, "%hu %hu", &window.ws_row, &window.ws_col) == 2)
        ioctl(terminal, TIOCSWINSZ, &window);
}

/* Tells when a stream grew; what follows at once in the same stream goes without saying. */
static void note_output(const struct stream *stream)
{
    static const struct stream *last;
    static long long last_time;
    struct timespec t;
    char line[80];
    clock_gettime(CLOCK_BOOTTIME, &t);
    long long now = t.tv_sec * 1000LL + t.tv_nsec / 1000000;
    if (stream == last && now - last_time < 3)
        return;
    last = stream;
    last_time = now;
    int length = snprintf(line, sizeof line, "%d %llu %lld\n", (int)(stream - output) + 1, stream->total, now);
    write_to(&stream_index, line, length);
}

/* Copies what is there; false at the end of the stream. */
int pump_output(struct stream *stream)
{
    ssize_t n = read(stream->from, stream->data, sizeof stream->data);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n > 0) {
        note_output(stream);
        write_to(&stream->to, stream->data, n);
        stream->total += n;
    }
    return n > 0;
}

static void close_input(void)
{
    if (terminal >= 0)
        write(input.to, "\4", 1); /* what ends input at a terminal */
    close(input.to);
    input.to = -1;
}

/* Moves standard input as far as both ends allow. The port is edge-triggered: it is read until empty. */
void pump_input(void)
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

/* The command's ends of its streams; ours are in `input` and `output`. */
void open_streams(int news, int null, struct stdio *streams)
{
    int ends[2], master = -1, slave = -1;
    if (config.tty)
        open_terminal(&master, &slave);
    for (int o = 0; o < 2; o++) {
        output[o].from = -1;
        if (config.tty)
            output[o].from = o == 0 ? master : -1;
        else {
            make_pipe(ends);
            output[o].from = ends[0];
        }
        streams->fds[o + 1] = config.tty ? slave : ends[1];
    }
    streams->fds[0] = config.tty ? slave : null;
    if (!config.has_stdin)
        return;
    input.from = open_port(news, "hybrid.stdin", O_RDONLY | O_NONBLOCK);
    if (config.tty) {
        input.to = fcntl(master, F_DUPFD_CLOEXEC, 10);
    } else {
        make_pipe(ends);
        streams->fds[0] = ends[0];
        input.to = ends[1];
    }
    fcntl(input.to, F_SETFL, O_NONBLOCK);
}
