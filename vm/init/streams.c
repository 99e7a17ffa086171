/* The command's streams, between its pipes and the ports. */
#include "init.h"

struct input input = {.from = -1, .to = -1, .stop_after = ~0ULL};
struct stream output[2];

/* Copies what is there; false at the end of the stream. */
int pump_output(struct stream *stream)
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
