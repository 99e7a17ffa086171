/* What the host is told: one line for an event, on the events' port or, standalone, on the consoles. */
#include "init.h"

#define READING_SECONDS 15 /* a failure stays on the screen before it goes dark */

struct sink events = {{-1, -1}};
static char last_written = '\n';

void write_all(int fd, const char *data, size_t length)
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

void write_to(const struct sink *sink, const char *data, size_t length)
{
    for (int i = 0; i < 2; i++)
        if (sink->fds[i] >= 0)
            write_all(sink->fds[i], data, length);
    if (length)
        last_written = data[length - 1];
}

/* On a console an event is a line of its own, and not to be taken for the command's output. */
void say(const char *format, ...)
{
    char line[4000];
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
void say_data(const char *key, const char *data, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * sizeof probe.text + 1];
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

void power_off(void)
{
    tcdrain(events.fds[0]);
    tcdrain(events.fds[1]);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

void die(const char *what)
{
    say("failed %s: %s", what, strerror(errno));
    if (config.standalone)
        sleep(READING_SECONDS);
    else
        dprintf(2, "hybrid init: %s: %s\n", what, strerror(errno));
    power_off();
}

long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}
