/* Objects that are kept alive until a stream's work is done. Each stream has a queue, because its work is done in order.
 * keepalive.py does the same in Python, for all cases that the fast path does not cover. */

#include "native.h"

#include <stdlib.h>

typedef struct Kept {
    struct Kept *next;
    unsigned long long event; /* 0 after it was given back to the pool */
    Pool *pool;    /* takes the event back; NULL if the event belongs to *shared* */
    Event *shared; /* the Event, if several entries wait for the same one; else NULL */
    Stream *stream;
    PyObject *memory;
} Kept;

typedef struct Queue {
    struct Queue *previous, *next;
    unsigned long long handle, context_id;
    Kept *first, *last;
} Queue;

enum { QUEUES = 2, EVENTS = 32 }; /* the most that one call of another function looks at */
enum { OUT_OF_MEMORY = 2 };

static Queue *oldest, *newest; /* a list; a queue that was looked at moves to its end */
static Py_ssize_t kept_count, queue_count;
static PyObject *put_again; /* puts an entry whose event cannot be queried into a queue of Python's */

/* -- queues ----------------------------------------------------------------------------------------------------------- */

static void
link_queue(Queue *queue)
{
    queue->previous = newest;
    queue->next = NULL;
    if (newest == NULL) {
        oldest = queue;
    }
    else {
        newest->next = queue;
    }
    newest = queue;
    queue_count++;
}

static void
unlink_queue(Queue *queue)
{
    if (queue->previous == NULL) {
        oldest = queue->next;
    }
    else {
        queue->previous->next = queue->next;
    }
    if (queue->next == NULL) {
        newest = queue->previous;
    }
    else {
        queue->next->previous = queue->previous;
    }
    queue_count--;
}

static Queue *
queue_of(Stream *stream)
{
    Queue *queue;

    for (queue = newest; queue != NULL; queue = queue->previous) {
        if (queue->handle == stream->handle && queue->context_id == stream->context_id) {
            return queue;
        }
    }
    queue = calloc(1, sizeof *queue);
    if (queue != NULL) {
        queue->handle = stream->handle;
        queue->context_id = stream->context_id;
        link_queue(queue);
    }
    return queue;
}

static void
append(Queue *queue, Kept *kept)
{
    if (queue->last == NULL) {
        queue->first = kept;
    }
    else {
        queue->last->next = kept;
    }
    queue->last = kept;
    kept_count++;
}

static Kept *
take_first(Queue *queue)
{
    Kept *kept = queue->first;

    queue->first = kept->next;
    if (queue->first == NULL) {
        queue->last = NULL;
    }
    kept_count--;
    return kept;
}

/* -- keeping ---------------------------------------------------------------------------------------------------------- */

static Kept *
new_kept(Stream *stream, PyObject *memory)
{
    Kept *kept = calloc(1, sizeof *kept);

    if (kept != NULL) {
        kept->stream = (Stream *)Py_NewRef((PyObject *)stream);
        kept->memory = Py_NewRef(memory);
    }
    return kept;
}

/* Freeing the memory may run any code of any library. */
static void
free_kept(Kept *kept)
{
    Py_XDECREF((PyObject *)kept->pool);
    Py_XDECREF((PyObject *)kept->shared);
    Py_DECREF((PyObject *)kept->stream);
    Py_DECREF(kept->memory);
    free(kept);
}

static void
destroy_event(unsigned long long event)
{
    Py_BEGIN_ALLOW_THREADS
    driver.event_destroy(pointer(event));
    Py_END_ALLOW_THREADS
}

/* Keep *memory* until the work of *stream* so far is done. If *producer* is not NULL, make it wait for that work. 0 if the
 * fast path does not cover the case: then nothing is kept. */
int
keep_after(Stream *stream, Stream *producer, PyObject *memory)
{
    unsigned long long event;
    Queue *queue;
    Kept *kept;

    if (!is_ready(stream) || (producer != NULL && !is_ready(producer)) ||
        (kept = new_kept(stream, memory)) == NULL) { /* allocated before anything is ordered, because it may fail */
        return 0;
    }
    kept->pool = (Pool *)Py_NewRef((PyObject *)stream->pool);
    event = pool_take(kept->pool);
    if (record_and_wait(stream, producer, &event) != SUCCESS || (queue = queue_of(stream)) == NULL) {
        if (event) {
            destroy_event(event); /* after a failure it is unknown what it stands for */
        }
        free_kept(kept);
        return 0;
    }
    kept->event = event;
    append(queue, kept);
    return 1;
}

/* Keep *memory* until *event*, which was recorded on *stream*, is done. Then *pool* takes the event; or *pool* is NULL, and
 * the event belongs to *shared*. */
static int
keep_recorded(Stream *stream, unsigned long long event, Pool *pool, Event *shared, PyObject *memory)
{
    Kept *kept = new_kept(stream, memory);
    Queue *queue = kept == NULL ? NULL : queue_of(stream);

    if (queue == NULL) {
        if (kept != NULL) {
            free_kept(kept);
        }
        return 0;
    }
    kept->event = event;
    kept->pool = (Pool *)Py_XNewRef((PyObject *)pool);
    kept->shared = (Event *)Py_XNewRef((PyObject *)shared);
    append(queue, kept);
    return 1;
}

int
keep_until(Stream *stream, Event *event, PyObject *memory)
{
    unsigned long long handle = recorded_handle(event);

    return handle && is_ready(stream) && keep_recorded(stream, handle, NULL, event, memory);
}

int
keep_until_event(Stream *stream, unsigned long long event, PyObject *memory)
{
    return keep_recorded(stream, event, stream->pool, NULL, memory);
}

/* -- releasing -------------------------------------------------------------------------------------------------------- */

/* Give Python an entry whose event cannot be queried: a capture had begun when the event was recorded, or the device is
 * lost. 0 if Python's queue cannot take it, for want of memory. */
static int
leave_to_python(Kept *kept)
{
    PyObject *again = PyTuple_Pack(5, Py_None, (PyObject *)kept->stream, kept->memory, kept->memory, Py_None);
    PyObject *put = again == NULL || put_again == NULL ? NULL : PyObject_CallFunctionObjArgs(put_again, again, NULL);

    Py_XDECREF(again);
    Py_XDECREF(put);
    PyErr_Clear();
    return put != NULL;
}

/* Move the entries that are done to the list *gone*, and those whose event cannot be queried to the list *odd*. Look at all
 * queues, or only at some. The GIL is held throughout, so that no other thread changes the queues. That is cheap: a query
 * does not wait, not even for a thread that waits in a launch. To take the GIL again would cost more. */
static void
take_done(int all, Kept **gone, Kept **odd)
{
    Py_ssize_t queues = all || queue_count < QUEUES ? queue_count : QUEUES, events = all ? kept_count : EVENTS;
    int mode = RELAXED; /* as in calls.c: else a query would invalidate the capture of another stream */

    if (driver.exchange_capture_mode(&mode) != SUCCESS) {
        return;
    }
    while (queues-- > 0 && events > 0) {
        Queue *queue = oldest;
        unlink_queue(queue);
        link_queue(queue);
        while (queue->first != NULL && events-- > 0) {
            int code = driver.event_query(pointer(queue->first->event));
            Kept *kept, **to = code == SUCCESS ? gone : odd;
            if (code == NOT_READY || code == OUT_OF_MEMORY) {
                break;
            }
            kept = take_first(queue);
            if (code == SUCCESS && kept->pool != NULL && pool_give(kept->pool, kept->event)) {
                kept->event = 0;
            }
            kept->next = *to;
            *to = kept;
        }
        if (queue->first == NULL) {
            unlink_queue(queue);
            free(queue);
        }
    }
    driver.exchange_capture_mode(&mode);
}

/* Free the entries that are done, in *all* queues or in some. */
static void
let_go(int all)
{
    Kept *gone = NULL, *odd = NULL, *kept;

    take_done(all, &gone, &odd);
    while ((kept = odd) != NULL) {
        odd = kept->next;
        if (!leave_to_python(kept)) {
            Py_INCREF(kept->memory); /* keep it for good: when the device is done with it cannot be found out */
        }
        kept->next = gone;
        gone = kept;
    }
    while ((kept = gone) != NULL) { /* last, because freeing an entry may call this function again */
        gone = kept->next;
        if (kept->pool != NULL && kept->event) {
            destroy_event(kept->event);
        }
        free_kept(kept);
    }
}

/* -- functions -------------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(keep_doc,
"keep(stream, memory, /)\n"
"--\n\n"
"Keep *memory* until the work is done that a stream was given so far; False if the fast path does not cover it.");

static PyObject *
function_keep(PyObject *module, PyObject *arguments)
{
    PyObject *stream, *memory;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O:keep", stream_type, &stream, &memory)) {
        return NULL;
    }
    return PyBool_FromLong(keep_after((Stream *)stream, NULL, memory));
}

PyDoc_STRVAR(release_doc,
"release_kept(all, /)\n"
"--\n\n"
"Release what is done: of *all*, or of some streams' only, other ones each time. How many are kept.");

static PyObject *
function_release(PyObject *module, PyObject *all)
{
    int truth = PyObject_IsTrue(all);

    (void)module;
    if (truth < 0) {
        return NULL;
    }
    take_ended();
    if (kept_count && driver.event_query != NULL) {
        let_go(truth);
    }
    return PyLong_FromSsize_t(kept_count);
}

static PyObject *
function_forget(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    forget_ended();
    oldest = newest = NULL;
    kept_count = queue_count = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(prepare_doc,
"prepare_keepalive(put_again, /)\n"
"--\n\n"
"Take the function that puts a tuple of None, stream, memory, memory and None into a queue of Python's; written in C.");

static PyObject *
function_prepare(PyObject *module, PyObject *function)
{
    (void)module;
    keep(&put_again, function);
    Py_RETURN_NONE;
}

PyMethodDef keepalive_functions[] = {
    {"forget_kept", function_forget, METH_NOARGS,
     "forget_kept()\n--\n\nForget all that is kept, in a process that was forked, and free nothing of it."},
    {"keep", function_keep, METH_VARARGS, keep_doc},
    {"prepare_keepalive", function_prepare, METH_O, prepare_doc},
    {"release_kept", function_release, METH_O, release_doc},
    {NULL, NULL, 0, NULL},
};
