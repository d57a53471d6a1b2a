/* The CUDA calls of the libraries, made from C, for comparison.
 *
 * No CUDA header is needed: the addresses of the functions are passed in. Each function below makes its calls n times,
 * and returns the nanoseconds that all of them took, or minus the first CUDA error.
 */

#include <stdint.h>
#include <time.h>

typedef void *stream_t;
typedef void *event_t;

/* In the order of RUNTIME in baseline.py. */
struct entry_points {
    int (*stream_query)(stream_t);
    int (*stream_synchronize)(stream_t);
    int (*stream_wait_event)(stream_t, event_t, unsigned);
    int (*event_record)(event_t, stream_t);
    int (*event_create)(event_t *, unsigned);
    int (*event_destroy)(event_t);
};

enum { DISABLE_TIMING = 2 };

static struct entry_points cuda;

void set_entry_points(const struct entry_points *given) { cuda = *given; }

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#define TIMED(n, ...)                                                                                                  \
    int64_t start = now();                                                                                             \
    for (int64_t i = 0; i < (n); i++) {                                                                                \
        int code;                                                                                                      \
        __VA_ARGS__                                                                                                    \
    }                                                                                                                  \
    return now() - start;

#define CHECK(call)                                                                                                    \
    if ((code = (call))) return -(int64_t)code;

int64_t query(int64_t n, stream_t stream) { TIMED(n, CHECK(cuda.stream_query(stream))) }

int64_t synchronize(int64_t n, stream_t stream) { TIMED(n, CHECK(cuda.stream_synchronize(stream))) }

int64_t record(int64_t n, event_t event, stream_t stream) { TIMED(n, CHECK(cuda.event_record(event, stream))) }

int64_t record_new(int64_t n, stream_t stream) {
    TIMED(n, event_t event; CHECK(cuda.event_create(&event, DISABLE_TIMING)) CHECK(cuda.event_record(event, stream))
                 CHECK(cuda.event_destroy(event)))
}

int64_t wait_event(int64_t n, stream_t stream, event_t event) { TIMED(n, CHECK(cuda.stream_wait_event(stream, event, 0))) }

/* The consumer waits for each of the producers. */
int64_t wait_streams(int64_t n, stream_t consumer, int64_t count, const event_t *events, const stream_t *producers) {
    TIMED(n, for (int64_t j = 0; j < count; j++) {
        CHECK(cuda.event_record(events[j], producers[j]))
        CHECK(cuda.stream_wait_event(consumer, events[j], 0))
    })
}
