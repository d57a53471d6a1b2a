/* The CUDA calls of the fast path: record, wait, query, synchronize.
 *
 * Only streams that capture nothing are covered, and only events without timing; the rest falls back to Python. While
 * the GIL is released, other threads may change every object: what is needed of one is read before.
 */

#include "native.h"

/* Find the context of a stream that was not used before. Give the stream the pool of that context, if the context has one.
 * That opens the fast path for the stream. Streams of another driver and per-thread default streams get no pool. */
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

/* Whether two streams are one, as == decides in Python. */
int
is_same_stream(Stream *one, Stream *other)
{
    return one->handle == other->handle && needs_of(one) == needs_of(other) && one->cuda == other->cuda &&
           (one->handle != PER_THREAD || one->thread == other->thread);
}

/* record_then_wait with the GIL released, because the calls may wait for another thread. */
static int
enqueue(const Place *recorded, const Place *waiting, unsigned long long *event, int ask, const char **call)
{
    int code;

    Py_BEGIN_ALLOW_THREADS
    code = record_then_wait(recorded, waiting, event, ask, call);
    Py_END_ALLOW_THREADS
    return code;
}

/* Make a stream wait for the producer. */
static int
order_place(Place waiting, Stream *producer, const char **call)
{
    Place awaited;
    unsigned long long event;
    Pool *pool;
    int code;

    if (!is_ready(producer)) {
        return FALL_BACK;
    }
    awaited = place_of(producer);
    pool = producer->pool;
    Py_INCREF((PyObject *)pool);
    event = pool_take(pool);
    /* A producer that captures takes the consumer into its capture, which is legal: it need not be asked. Except that the
     * legacy default stream cannot join a capture, and must not be used while a blocking stream captures. */
    code = enqueue(&awaited, &waiting, &event, waiting.needs || awaited.needs, call);
    /* After a failure it is unknown what the event stands for. */
    if (event && ((*call != NULL && code != SUCCESS) || !pool_give(pool, event))) {
        Py_BEGIN_ALLOW_THREADS
        driver.event_destroy(pointer(event));
        Py_END_ALLOW_THREADS
    }
    Py_DECREF((PyObject *)pool);
    return code;
}

static int
order(Stream *consumer, Stream *producer, const char **call)
{
    return is_ready(consumer) ? order_place(place_of(consumer), producer, call) : FALL_BACK;
}

PyDoc_STRVAR(let_wait_doc,
"let_wait(handle, stream, /)\n"
"--\n\n"
"Make a stream of another library's, which is known by its handle only, wait for the work of *stream* so far. No watcher is\n"
"told. If the driver fails, the error is raised.\n\n"
"Returns:\n"
"    False, and nothing was ordered, if one of them captures, or if the fast path does not cover it.");

static PyObject *
let_wait(PyObject *module, PyObject *arguments)
{
    PyObject *number, *stream;
    Place waiting = {0};
    const char *call = NULL;
    int code;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!:let_wait", &PyLong_Type, &number, stream_type, &stream)) {
        return NULL;
    }
    waiting.handle = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* no handle, as Python will say */
        Py_RETURN_FALSE;
    }
    if (waiting.handle == ((Stream *)stream)->handle) {
        Py_RETURN_TRUE;
    }
    code = waiting.handle > PER_THREAD && can_be_read(waiting.handle) ? order_place(waiting, (Stream *)stream, &call)
                                                                      : FALL_BACK;
    if (code != SUCCESS && code != FALL_BACK) {
        return failed(stream, call, code, Py_None);
    }
    return PyBool_FromLong(code == SUCCESS);
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
    unsigned long long handle = event->handle;
    int code;

    if (handle == 0 || !is_ready(stream) || event->pool != stream->pool) {
        return FALL_BACK;
    }
    code = record_and_wait(stream, NULL, &handle);
    if (code == SUCCESS) {
        event->recorded = 1;
        event->capture = 0;
    }
    return code;
}

/* Record the stream's work so far in an event of the stream's context, and make *producer*, if it is not NULL, wait for
 * that same event, which is created if it is 0; no watcher is told. */
int
record_and_wait(Stream *stream, Stream *producer, unsigned long long *event)
{
    Place recorded, waiting = {0, 0, 0};
    const char *call;

    if (stream->pool == NULL || (producer != NULL && producer->pool == NULL)) {
        return FALL_BACK;
    }
    recorded = place_of(stream);
    if (producer != NULL) {
        waiting = place_of(producer);
    }
    return enqueue(&recorded, producer == NULL ? NULL : &waiting, event, 1, &call);
}

/* A new event that stands for the stream's work so far; NULL if the fallback is to be taken, or with an exception. */
PyObject *
record_new(Stream *stream)
{
    PyObject *made, *pool;
    Event *event;
    unsigned long long handle;
    int code;

    if (!is_ready(stream)) {
        return NULL;
    }
    pool = Py_NewRef((PyObject *)stream->pool);
    made = PyType_GenericAlloc(event_class, 0);
    if (made == NULL) {
        Py_DECREF(pool);
        PyErr_Clear(); /* MemoryError: nothing else can fail here */
        return NULL;
    }
    event = (Event *)made;
    event->pool = (Pool *)pool;
    event->context = stream->context;
    event->cuda = Py_XNewRef(stream->cuda);
    event->flags = PyLong_FromLong(DISABLE_TIMING); /* 0 is a cached int, so this cannot fail */
    handle = pool_take(event->pool);
    code = record_and_wait(stream, NULL, &handle);
    event->handle = handle;
    if (code == SUCCESS) {
        event->recorded = 1;
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
    return enqueue(NULL, &waiting, &event, 0, &call);
}

/* Call cuStreamQuery or cuStreamSynchronize. */
int
ask_stream(int (*call)(void *), Stream *stream)
{
    Place asked;
    int code;

    if (!is_ready(stream)) {
        return FALL_BACK;
    }
    asked = place_of(stream);
    Py_BEGIN_ALLOW_THREADS
    code = ask_on(asked, call);
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

PyMethodDef order_functions[] = {
    {"let_wait", let_wait, METH_VARARGS, let_wait_doc},
    {NULL, NULL, 0, NULL},
};
