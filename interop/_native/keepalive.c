/* What is kept alive until a stream's work is done: for each stream a queue, since its work is in order. keepalive.py does
 * it in Python, for whatever the fast path does not cover. */

#include "native.h"

#include <stdlib.h>

typedef struct Kept {
    struct Kept *next;
    unsigned long long event;
    Pool *pool;    /* where the event goes; NULL: it belongs to *shared* */
    Event *shared; /* an event that several have in common; else NULL */
    Stream *stream;
    PyObject *memory;
} Kept;

typedef struct Queue {
    struct Queue *previous, *next;
    unsigned long long handle, context_id;
    Kept *first, *last;
    int is_busy; /* a thread asks about the first one, and has released the GIL: nobody else may take it */
} Queue;

enum { LOOKS = 8 }; /* queues that are looked at in passing */
enum { OUT_OF_MEMORY = 2 };

static Queue *oldest, *newest; /* a list; what was looked at goes to its end */
static Py_ssize_t kept_count, queue_count;
static PyObject *put_again; /* puts what CUDA cannot tell any more into a queue of Python's */

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

/* Whatever the end of the memory sets off runs in here. */
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

/* Keep *memory* until the work is done that *stream* was given so far; *producer*, if it is not NULL, waits for that work
 * from now on. 0 if the fast path does not cover it: then nothing is kept. */
int
keep_after(Stream *stream, Stream *producer, PyObject *memory)
{
    unsigned long long event;
    Queue *queue;
    Kept *kept;

    if (!is_ready(stream) || (producer != NULL && !is_ready(producer)) || !(event = pool_take(stream->pool))) {
        return 0;
    }
    kept = new_kept(stream, memory); /* before anything is ordered: there may be no memory for it */
    if (kept == NULL) {
        pool_give(stream->pool, event);
        return 0;
    }
    kept->event = event;
    kept->pool = (Pool *)Py_NewRef((PyObject *)stream->pool);
    if (record_and_wait(stream, producer, event) != SUCCESS || (queue = queue_of(stream)) == NULL) {
        destroy_event(event); /* it may stand for anything */
        free_kept(kept);
        return 0;
    }
    append(queue, kept);
    return 1;
}

/* Likewise until the work is done that *event* stands for, which was recorded on *stream*. */
int
keep_until(Stream *stream, Event *event, PyObject *memory)
{
    unsigned long long handle = recorded_handle(event);
    Queue *queue;
    Kept *kept;

    if (!handle || !is_ready(stream) || (kept = new_kept(stream, memory)) == NULL) {
        return 0;
    }
    queue = queue_of(stream);
    if (queue == NULL) {
        free_kept(kept);
        return 0;
    }
    kept->event = handle;
    kept->shared = (Event *)Py_NewRef((PyObject *)event);
    append(queue, kept);
    return 1;
}

/* -- letting go ------------------------------------------------------------------------------------------------------- */

/* Whether what is the first of its queue can be taken out: it is done, or Python goes on with it. */
static int
is_done(Kept *kept)
{
    PyObject *again, *put;
    int code;

    Py_BEGIN_ALLOW_THREADS
    code = query_event(kept->event);
    Py_END_ALLOW_THREADS
    if (code == SUCCESS) {
        return 1;
    }
    if (code == NOT_READY || code == OUT_OF_MEMORY || code == FALL_BACK) {
        return 0;
    }
    /* A capture had begun when the event was recorded, or the device is lost. */
    again = PyTuple_Pack(5, Py_None, (PyObject *)kept->stream, kept->memory, kept->memory, Py_None);
    put = again == NULL || put_again == NULL ? NULL : PyObject_CallFunctionObjArgs(put_again, again, NULL);
    Py_XDECREF(again);
    Py_XDECREF(put);
    PyErr_Clear(); /* MemoryError: it stays */
    return put != NULL;
}

/* Take what is done out of a queue, in front of *gone*. */
static void
take_done(Queue *queue, Kept **gone)
{
    queue->is_busy = 1;
    while (queue->first != NULL && is_done(queue->first)) {
        Kept *kept = take_first(queue);
        if (kept->pool != NULL && !pool_give(kept->pool, kept->event)) {
            destroy_event(kept->event);
        }
        kept->next = *gone;
        *gone = kept;
    }
    queue->is_busy = 0;
    if (queue->first == NULL) {
        unlink_queue(queue);
        free(queue);
    }
}

static void
let_go(Py_ssize_t looks)
{
    Kept *gone = NULL;

    if (looks > queue_count) {
        looks = queue_count;
    }
    while (looks-- > 0 && oldest != NULL) { /* other threads come here too while the GIL is released */
        Queue *queue = oldest;
        unlink_queue(queue);
        link_queue(queue);
        if (!queue->is_busy) {
            take_done(queue, &gone);
        }
    }
    while (gone != NULL) { /* at last: what that sets off may come here again */
        Kept *kept = gone;
        gone = kept->next;
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
"Let go of what is done: of *all*, or of some streams' only, other ones each time. How many are kept.");

static PyObject *
function_release(PyObject *module, PyObject *all)
{
    int truth = PyObject_IsTrue(all);

    (void)module;
    if (truth < 0) {
        return NULL;
    }
    if (kept_count && driver.event_query != NULL) {
        let_go(truth ? queue_count : LOOKS);
    }
    return PyLong_FromSsize_t(kept_count);
}

static PyObject *
function_forget(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
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
