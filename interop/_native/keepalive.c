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
    int is_busy; /* a thread asks about its events, and has released the GIL: nobody else takes any of them out */
} Queue;

enum { QUEUES = 8, EVENTS = 32 }; /* what is looked at in passing, at most */
enum { OUT_OF_MEMORY = 2 };

/* An event that is asked about, and the answer. */
typedef struct {
    Queue *queue;
    Kept *kept;
    unsigned long long event;
    int code;
} Look;

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

    if (!is_ready(stream) || (producer != NULL && !is_ready(producer)) ||
        (kept = new_kept(stream, memory)) == NULL) { /* before anything is ordered: there may be no memory for it */
        return 0;
    }
    kept->pool = (Pool *)Py_NewRef((PyObject *)stream->pool);
    event = pool_take(kept->pool);
    if (record_and_wait(stream, producer, &event) != SUCCESS || (queue = queue_of(stream)) == NULL) {
        if (event) {
            destroy_event(event); /* it may stand for anything */
        }
        free_kept(kept);
        return 0;
    }
    kept->event = event;
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

/* Ask whether the work of each event is done, in the order of the queue up to the first that is not. Without the GIL, which
 * is released once for all of them: to take it again is what costs most where many threads want it. */
static void
ask_all(Look *looks, int count)
{
    int mode = RELAXED; /* as in order.c: a query would break some other stream's capture */

    if (driver.exchange_capture_mode(&mode) != SUCCESS) {
        return;
    }
    for (int i = 0; i < count; i++) {
        if (i == 0 || looks[i].queue != looks[i - 1].queue || looks[i - 1].code == SUCCESS) {
            looks[i].code = driver.event_query(pointer(looks[i].event));
        }
    }
    driver.exchange_capture_mode(&mode);
}

/* Whether what was asked about can be taken out: it is done, or Python goes on with it. */
static int
is_over(Look *look)
{
    PyObject *again, *put;
    Kept *kept = look->kept;

    if (look->code == SUCCESS) {
        return 1;
    }
    if (look->code == NOT_READY || look->code == OUT_OF_MEMORY) {
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

/* Take what is done out of some queues, in front of *gone*. How many queues these were; *taken*, whether anything was. */
static Py_ssize_t
take_done(Kept **gone, int *taken)
{
    Look looks[EVENTS];
    Py_ssize_t queues = 0;
    int count = 0;

    while (queues < QUEUES && queues < queue_count && count < EVENTS) {
        Queue *queue = oldest;
        unlink_queue(queue);
        link_queue(queue);
        queues++;
        if (queue->is_busy) {
            continue;
        }
        queue->is_busy = 1;
        for (Kept *kept = queue->first; kept != NULL && count < EVENTS; kept = kept->next) {
            looks[count++] = (Look){queue, kept, kept->event, NOT_READY};
        }
    }
    *taken = 0;
    if (count == 0) {
        return queues;
    }
    Py_BEGIN_ALLOW_THREADS
    ask_all(looks, count);
    Py_END_ALLOW_THREADS
    for (int i = 0; i < count; i++) {
        Queue *queue = looks[i].queue;
        Kept *kept = looks[i].kept;
        if (queue->first == kept && is_over(&looks[i])) { /* else the one before it is not done */
            *taken = 1;
            take_first(queue);
            if (kept->pool != NULL && !pool_give(kept->pool, kept->event)) {
                destroy_event(kept->event);
            }
            kept->next = *gone;
            *gone = kept;
        }
        if (i + 1 == count || looks[i + 1].queue != queue) { /* that was all of this queue */
            queue->is_busy = 0;
            if (queue->first == NULL) {
                unlink_queue(queue);
                free(queue);
            }
        }
    }
    return queues;
}

/* Let go of what is done, of some queues or of *all*. */
static void
let_go(int all)
{
    Kept *gone = NULL;
    Py_ssize_t queues, idle = 0; /* queues that were looked at since something was done */
    int taken;

    do {
        queues = take_done(&gone, &taken);
        idle = taken ? 0 : idle + queues;
    } while (all && queues && idle < queue_count);
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
        let_go(truth);
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
