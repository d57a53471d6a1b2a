/* The calls that the libraries make, made from C: what the benchmarks divide by.
 *
 * Needs no CUDA header: the entry points are handed in at run time, and streams and events are addresses. Every timed
 * function makes its calls n times, and returns the nanoseconds that all of it took, or minus the first CUDA error.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

typedef void *stream_t;
typedef void *event_t;

/* Of the runtime or of the driver, whose functions are alike; in the order of baseline.py's RUNTIME and DRIVER. */
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

/* There: the consumer waits for the producer; and back; and, for a hand-over, an event for the end of the consumer's. */
int64_t there_and_back(int64_t n, stream_t consumer, stream_t producer, const event_t *events, int64_t mark_the_end) {
    TIMED(n, CHECK(cuda.event_record(events[0], producer)) CHECK(cuda.stream_wait_event(consumer, events[0], 0))
                 CHECK(cuda.event_record(events[1], consumer)) CHECK(cuda.stream_wait_event(producer, events[1], 0))
                     if (mark_the_end) CHECK(cuda.event_record(events[2], consumer)))
}

struct thread {
    pthread_t id;
    atomic_int *ready;
    int threads;
    int64_t n, begun, ended, result;
    stream_t consumer, producer;
    event_t event;
};

static void *run_thread(void *argument) {
    struct thread *t = argument;
    atomic_fetch_add(t->ready, 1);
    while (atomic_load(t->ready) < t->threads) {
    }
    t->begun = now();
    t->result = wait_streams(t->n, t->consumer, 1, &t->event, &t->producer);
    t->ended = now();
    return NULL;
}

/* As wait_streams for one producer, n times in each of several threads at once; from the first begin to the last end. */
int64_t wait_stream_in_threads(int64_t n, int64_t count, const stream_t *consumers, const event_t *events,
                               const stream_t *producers) {
    atomic_int ready = 0;
    struct thread *threads = calloc((size_t)count, sizeof *threads);
    if (!threads) abort();
    for (int64_t j = 0; j < count; j++) {
        threads[j] = (struct thread){.ready = &ready, .threads = (int)count, .n = n, .consumer = consumers[j],
                                     .producer = producers[j], .event = events[j]};
        if (pthread_create(&threads[j].id, NULL, run_thread, &threads[j])) abort();
    }
    int64_t begun = INT64_MAX, ended = 0, failure = 0;
    for (int64_t j = 0; j < count; j++) {
        pthread_join(threads[j].id, NULL);
        if (threads[j].begun < begun) begun = threads[j].begun;
        if (threads[j].ended > ended) ended = threads[j].ended;
        if (threads[j].result < 0) failure = threads[j].result;
    }
    free(threads);
    return failure ? failure : ended - begun;
}
