/* The CUDA calls of the fast path: record, wait, query, synchronize.
 *
 * Only streams that capture nothing are covered, and only events without timing; the rest falls back to Python. While
 * the GIL is released, other threads may change every object: what is needed of one is read before.
 */

#include "native.h"

/* Find the context of a stream that was not used before. The stream gets the pool of that context if there is one, and
 * it is a stream of the bound driver other than a per-thread default one: then the fast path may be taken. */
static void
locate(Stream *stream)
{
    unsigned long long handle = stream->handle, id = 0;
    void *context = pointer(needs_of(stream));
    PyObject *key, *pool;
    int code = SUCCESS;

    if (bound == NULL || stream->context_id || stream->cuda != bound ||
        (handle <= PER_THREAD && (handle != LEGACY || context == NULL))) {
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    if (context == NULL) {
        code = driver.stream_get_context(pointer(handle), &context);
    }
    if (code == SUCCESS) {
        code = driver.context_get_id(context, &id);
    }
    Py_END_ALLOW_THREADS
    if (code != SUCCESS || (key = PyLong_FromUnsignedLongLong(id)) == NULL) {
        PyErr_Clear(); /* MemoryError */
        return;
    }
    pool = PyDict_GetItemWithError(pools, key);
    Py_DECREF(key);
    if (pool != NULL && PyObject_TypeCheck(pool, pool_type) && stream->pool == NULL) {
        Py_INCREF(pool);
        stream->pool = (Pool *)pool;
        stream->context = (uintptr_t)context;
        stream->context_id = id;
    }
}

/* Whether the driver can be called about the stream as it is, and no watcher is to be told. */
int
is_ready(Stream *stream)
{
    if (watched) {
        return 0;
    }
    if (stream->pool == NULL) {
        locate(stream);
    }
    return stream->pool != NULL;
}

/* What the driver needs to know of a stream. */
typedef struct {
    unsigned long long handle, needs;
} Place;

static inline Place
place_of(Stream *stream)
{
    Place place = {stream->handle, needs_of(stream)};

    return place;
}

/* Make the context current that a stream needs, if it needs one; 0 if that fails. */
static inline int
enter(Place stream, void **before)
{
    int code = SUCCESS;

    if (stream.needs) {
        code = driver.get_context(before);
        if (code == SUCCESS && *before != pointer(stream.needs)) {
            code = driver.set_context(pointer(stream.needs));
        }
    }
    return code == SUCCESS;
}

/* Make the context current that was so before; *code*, the answer to the call between, if that succeeds. */
static inline int
leave(Place stream, void *before, int code)
{
    int failed = SUCCESS;

    if (stream.needs && before != pointer(stream.needs)) {
        failed = driver.set_context(before);
    }
    return failed == SUCCESS ? code : NOT_RESTORED + failed;
}

/* SUCCESS if a stream captures nothing, FALL_BACK if it captures or cannot be asked. */
static inline int
captures_nothing(Place stream)
{
    void *before = NULL;
    int status = NOT_CAPTURING, code;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    code = leave(stream, before, driver.stream_is_capturing(pointer(stream.handle), &status));
    return code >= NOT_RESTORED || (code == SUCCESS && status == NOT_CAPTURING) ? code : FALL_BACK;
}

static inline int
record_on(Place stream, unsigned long long event)
{
    void *before = NULL;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    return leave(stream, before, driver.event_record(pointer(event), pointer(stream.handle)));
}

static inline int
wait_on(Place stream, unsigned long long event)
{
    void *before = NULL;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    return leave(stream, before, driver.stream_wait_event(pointer(stream.handle), pointer(event), 0));
}

/* Query or synchronize, without breaking the capture of some other stream: in the capture modes "global" and "thread
 * local", CUDA forbids every query and synchronize, related or not, and invalidates the capture for one. */
static inline int
ask(int (*call)(void *), unsigned long long handle)
{
    int mode = RELAXED, code, failed;

    if (driver.exchange_capture_mode(&mode) != SUCCESS) {
        return FALL_BACK;
    }
    code = call(pointer(handle));
    failed = driver.exchange_capture_mode(&mode);
    return failed == SUCCESS ? code : MODE_NOT_RESTORED + failed;
}

/* Whether two streams are one, as == decides in Python. */
int
is_same_stream(Stream *one, Stream *other)
{
    return one->handle == other->handle && needs_of(one) == needs_of(other) && one->cuda == other->cuda &&
           (one->handle != PER_THREAD || one->thread == other->thread);
}

/* Record one stream's work so far in an event, and make another stream wait for that event; either may be NULL. The
 * stream that waits is asked whether it captures, the recorded one if *ask*. *call* is the name of the call that failed. */
static int
record_then_wait(const Place *recorded, const Place *waiting, unsigned long long event, int ask, const char **call)
{
    int code = SUCCESS;

    *call = NULL;
    Py_BEGIN_ALLOW_THREADS
    if (waiting != NULL) {
        code = captures_nothing(*waiting);
    }
    if (code == SUCCESS && ask) {
        code = captures_nothing(*recorded);
    }
    if (code == SUCCESS && recorded != NULL) {
        *call = "cudaEventRecord";
        code = record_on(*recorded, event);
    }
    if (code == SUCCESS && waiting != NULL) {
        *call = "cudaStreamWaitEvent";
        code = wait_on(*waiting, event);
    }
    Py_END_ALLOW_THREADS
    return code;
}

/* Make the consumer wait for the producer. */
static int
order(Stream *consumer, Stream *producer, const char **call)
{
    Place waiting, awaited;
    unsigned long long event;
    Pool *pool;
    int code;

    if (!is_ready(consumer) || !is_ready(producer) || !(event = pool_take(producer->pool))) {
        return FALL_BACK;
    }
    waiting = place_of(consumer);
    awaited = place_of(producer);
    pool = producer->pool;
    Py_INCREF((PyObject *)pool);
    /* A producer that captures takes the consumer into its capture, which is legal: it need not be asked. Except that the
     * legacy default stream cannot join a capture, and must not be used while a blocking stream captures. */
    code = record_then_wait(&awaited, &waiting, event, waiting.needs || awaited.needs, call);
    /* After a failure the event may stand for anything, or be of no use at all. */
    if ((*call != NULL && code != SUCCESS) || !pool_give(pool, event)) {
        Py_BEGIN_ALLOW_THREADS
        driver.event_destroy(pointer(event));
        Py_END_ALLOW_THREADS
    }
    Py_DECREF((PyObject *)pool);
    return code;
}

/* Make the consumer wait for all producers, in the order in which they are given. Where the driver fails, an exception is
 * set. */
int
order_all(Stream *consumer, Stream **producers, Py_ssize_t count)
{
    int code = SUCCESS;

    /* If several are given, none may capture: the first wait could take the consumer into a capture, and make the second
     * one illegal, which is to be known before. */
    for (Py_ssize_t i = 0; count > 1 && code == SUCCESS && i < count; i++) {
        if (is_same_stream(consumer, producers[i])) {
            continue;
        }
        if (is_ready(producers[i])) {
            Place place = place_of(producers[i]);
            Py_BEGIN_ALLOW_THREADS
            code = captures_nothing(place);
            Py_END_ALLOW_THREADS
        }
        else {
            code = FALL_BACK;
        }
    }
    if (code >= NOT_RESTORED) {
        failed((PyObject *)consumer, NULL, code, Py_None);
    }
    for (Py_ssize_t i = 0; code == SUCCESS && i < count; i++) {
        const char *call = NULL;
        if (is_same_stream(consumer, producers[i])) {
            continue;
        }
        code = order(consumer, producers[i], &call);
        if (code != SUCCESS && code != FALL_BACK) {
            failed((PyObject *)consumer, call, code, (PyObject *)producers[i]);
        }
    }
    return code;
}

/* Record the stream's work so far in an event that was created before. */
int
record(Stream *stream, Event *event)
{
    int code;

    if (event->handle == 0 || !is_ready(stream) || event->pool != stream->pool) {
        return FALL_BACK;
    }
    code = record_and_wait(stream, NULL, event->handle);
    if (code == SUCCESS) {
        event->recorded = 1;
        event->capture = 0;
    }
    return code;
}

/* Record the stream's work so far in an event of the stream's context, and make *producer*, if it is not NULL, wait for
 * that same event; no watcher is told. */
int
record_and_wait(Stream *stream, Stream *producer, unsigned long long event)
{
    Place recorded, waiting = {0, 0};
    const char *call;

    if (stream->pool == NULL || (producer != NULL && producer->pool == NULL)) {
        return FALL_BACK;
    }
    recorded = place_of(stream);
    if (producer != NULL) {
        waiting = place_of(producer);
    }
    return record_then_wait(&recorded, producer == NULL ? NULL : &waiting, event, 1, &call);
}

/* A new event that stands for the stream's work so far; NULL if the fallback is to be taken, or with an exception. */
PyObject *
record_new(Stream *stream)
{
    Pool *pool;
    PyObject *made;
    Event *event;
    int code;

    if (!is_ready(stream) || (pool = stream->pool)->count == 0) {
        return NULL;
    }
    Py_INCREF((PyObject *)pool);
    made = PyType_GenericAlloc(event_class, 0);
    if (made == NULL) {
        Py_DECREF((PyObject *)pool);
        PyErr_Clear(); /* MemoryError only: finalisers that a collection runs raise nothing */
        return NULL;
    }
    event = (Event *)made;
    event->pool = pool;
    event->handle = pool_take(pool);
    if (event->handle == 0) { /* the allocation has set off a collection, whose finalisers have used it */
        Py_DECREF(made);
        return NULL;
    }
    event->context = stream->context;
    Py_XINCREF(stream->cuda);
    event->cuda = stream->cuda;
    event->flags = PyLong_FromLong(DISABLE_TIMING); /* one of the ints that Python keeps: no failure */
    code = record(stream, event);
    if (code == SUCCESS) {
        return made;
    }
    if (code != FALL_BACK) {
        failed((PyObject *)stream, "cudaEventRecord", code, made);
    }
    Py_DECREF(made);
    return NULL;
}

/* Whether it is an event of the bound driver, without timing, that was recorded, and not while a graph was captured. */
static int
stands_for_work(Event *event)
{
    return event->pool != NULL && event->cuda == bound && event->recorded && !event->capture;
}

/* The handle of such an event, or 0. */
unsigned long long
recorded_handle(Event *event)
{
    return stands_for_work(event) ? event->handle : 0;
}

/* Make the stream wait for an event that was recorded, as far as is known. */
int
wait_for(Stream *stream, unsigned long long event)
{
    Place waiting;
    const char *call;

    if (!is_ready(stream)) {
        return FALL_BACK;
    }
    waiting = place_of(stream);
    return record_then_wait(NULL, &waiting, event, 0, &call);
}

/* Call cuStreamQuery or cuStreamSynchronize. */
int
ask_stream(int (*call)(void *), Stream *stream)
{
    Place asked;
    void *before = NULL;
    int code;

    if (!is_ready(stream)) {
        return FALL_BACK;
    }
    asked = place_of(stream);
    Py_BEGIN_ALLOW_THREADS
    code = captures_nothing(asked);
    if (code == SUCCESS) {
        code = enter(asked, &before) ? leave(asked, before, ask(call, asked.handle)) : FALL_BACK;
    }
    Py_END_ALLOW_THREADS
    return code;
}

/* Call cuEventQuery or cuEventSynchronize. */
int
ask_event(int (*call)(void *), Event *event)
{
    unsigned long long handle = event->handle;
    int code = FALL_BACK;

    if (stands_for_work(event) && !watched) {
        Py_BEGIN_ALLOW_THREADS
        code = ask(call, handle);
        Py_END_ALLOW_THREADS
    }
    return code;
}
