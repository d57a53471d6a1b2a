/* The holder of a hand-over, and the way back. holder.py has the same in Python.
 *
 * A holder is freed with the last array over the memory. That may be in any thread, in the middle of any call, while an
 * exception is set, or in a garbage collection. The code here runs no line of Python, so no signal handler can raise in it.
 * There are two exceptions: a stream that can be closed is asked whether it was closed, and its class may be in Python; and
 * Python destroys a spare event for which the pool has no room. The garbage collector does not see the objects that a holder
 * owns, so it cannot have cleared them before.
 */

#include "native.h"

#include <stdlib.h>

PyTypeObject *holder_type;
static PyObject *streams_close;
static PyObject *add_ended; /* appends a hand-over that has ended to Python's queue */
static PyObject *settle;    /* handles the hand-overs in that queue */
int has_ended;

/* -- the way back ----------------------------------------------------------------------------------------------------- */

/* Whether a stream's library can close it; -1 with an exception. */
static int
can_close(PyObject *stream)
{
    PyObject *adapter = ((Stream *)stream)->adapter, *closes;
    int answer;

    if (adapter == NULL || adapter == Py_None || ((Stream *)stream)->handle <= PER_THREAD) {
        return 0;
    }
    closes = attribute(adapter, &streams_close, "streams_close");
    answer = closes == NULL ? -1 : PyObject_IsTrue(closes);
    Py_XDECREF(closes);
    return answer;
}

/* Whether a stream is open. 0 if it was closed, or if asking failed: then Python asks again. */
static int
is_open(PyObject *stream)
{
    PyObject *owner = ((Stream *)stream)->owner, *stated;
    unsigned long long handle = 0;
    int version = 1, known = can_close(stream);

    if (known == 0) {
        return 1;
    }
    stated = known < 0 || owner == NULL ? NULL : PyObject_CallMethod(owner, "__cuda_stream__", NULL);
    if (stated == NULL || !PyTuple_Check(stated) || !PyArg_ParseTuple(stated, "iK", &version, &handle)) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_WriteUnraisable(stream); /* such as KeyboardInterrupt, if the class of the object is in Python */
        }
        PyErr_Clear();
    }
    Py_XDECREF(stated);
    return version == 0 && handle == ((Stream *)stream)->handle;
}

/* Make the producer wait for the consumer's work, and keep *memory* until that work is done. PendingRelease does the same
 * in Python. 0 if the fast path does not cover the case: then Python has to do it. */
static int
go_back(Holder *holder, PyObject *memory)
{
    Stream *consumer = (Stream *)holder->consumer, *producer = NULL;

    if (holder->is_ordered) {
        return keep_until_event(consumer, holder->event, memory);
    }
    if (holder->event && !pool_give(consumer->pool, holder->event)) {
        discard_event(consumer->cuda, holder->event);
    }
    if (bound == NULL || (holder->closes && !(is_open(holder->consumer) &&
                                              (holder->producer == Py_None || is_open(holder->producer))))) {
        return 0;
    }
    if (holder->returned != NULL) {
        return keep_until(consumer, (Event *)holder->returned, memory);
    }
    if (holder->producer != Py_None && !is_same_stream((Stream *)holder->producer, consumer)) {
        producer = (Stream *)holder->producer;
    }
    return keep_after(consumer, producer, memory);
}

/* Append the hand-over to Python's queue, and call Python. What Python cannot do now, it tries again in later calls of
 * interop. 0 if the queue cannot take it, for want of memory. */
static int
leave_to_python(Holder *holder, PyObject *memory)
{
    PyObject *returned = holder->returned == NULL ? Py_None : holder->returned;
    PyObject *ended = PyTuple_Pack(5, holder->producer, holder->consumer, holder->tensor, memory, returned), *done;

    if (ended == NULL) {
        return 0;
    }
    done = PyObject_CallFunctionObjArgs(add_ended, ended, NULL);
    Py_DECREF(ended);
    if (done == NULL) {
        return 0;
    }
    Py_DECREF(done);
    done = PyObject_CallNoArgs(settle);
    if (done == NULL) {
        PyErr_WriteUnraisable(settle); /* such as KeyboardInterrupt: the queue still has the hand-over */
    }
    Py_XDECREF(done);
    return 1;
}

static void
holder_dealloc(PyObject *self)
{
    Holder *holder = (Holder *)self;
    PyObject *type, *value, *traceback, *memory;

    if (holder->tensor == NULL) { /* the constructor failed */
        free_object(self);
        return;
    }
    PyErr_Fetch(&type, &value, &traceback);
    remove_from_table(holder); /* first, because another thread must not find it while the GIL is released */
    if (holder->link != NULL) {
        holder->link->holder = NULL;
        Py_CLEAR(holder->link->root);
    }
    /* If the source came from another open hand-over, keep the source of that one until the device is done. The array
     * between the two must be freed as soon as no program uses it, because its own way back starts then. */
    memory = holder->parent != NULL && holder->parent->holder != NULL ? holder->root : holder->tensor;
    if (holder->start == holder->stop) {
        memory = Py_None;
    }
    if (has_ended || (!go_back(holder, memory) && !leave_to_python(holder, memory))) {
        Py_INCREF(holder->tensor); /* keep it for good: when the device is done with it cannot be found out */
        Py_XINCREF(holder->root);
    }
    PyErr_Clear();
    Py_CLEAR(holder->tensor);
    Py_CLEAR(holder->producer);
    Py_CLEAR(holder->consumer);
    Py_CLEAR(holder->relay);
    Py_CLEAR(holder->root);
    Py_CLEAR(holder->returned);
    Py_XDECREF((PyObject *)holder->link);
    Py_XDECREF((PyObject *)holder->parent);
    free(holder->view);
    free_object(self);
    PyErr_Restore(type, value, traceback);
}

/* -- an end without the GIL ------------------------------------------------------------------------------------------- */

static Holder *ended; /* a stack of holders whose way back is ordered; the next call with the GIL frees them */

/* Take, while the GIL is held, what the end without the GIL needs; nothing if the fast path does not cover the end. */
static void
prepare_end(Holder *holder)
{
    Stream *consumer = (Stream *)holder->consumer, *producer = NULL;

    if (holder->producer != Py_None && !is_same_stream((Stream *)holder->producer, consumer)) {
        producer = (Stream *)holder->producer;
    }
    /* With a parent, the end of the parent's hand-over follows at once, and that one takes the GIL anyway. */
    if (holder->closes || holder->parent != NULL || consumer->pool == NULL || (producer != NULL && producer->pool == NULL)) {
        return;
    }
    holder->event = pool_take(consumer->pool);
    holder->recorded = place_of(consumer);
    if (producer != NULL) {
        holder->waiting = place_of(producer);
    }
}

/* Order the way back in a thread that does not have the GIL, and take over the only reference to it. PyTorch
 * releases the GIL before it frees memory. To take the GIL again, here and then in PyTorch, would cost more than all else
 * where many threads want it. 0 if nothing was done. */
int
end_without_gil(PyObject *object)
{
    Holder *holder = (Holder *)object;
    const char *call;

    if (!PyObject_TypeCheck(object, holder_type) || !holder->recorded.handle || holder->returned != NULL || watched ||
        has_ended || Py_REFCNT(object) != 1) { /* this is the only reference, and no thread can get another */
        return 0;
    }
    if (record_then_wait(&holder->recorded, holder->waiting.handle ? &holder->waiting : NULL, &holder->event, 1, &call) !=
        SUCCESS) {
        if (call != NULL) {
            driver.event_destroy(pointer(holder->event)); /* after a failure it is unknown what it stands for */
            holder->event = 0;
        }
        return 0;
    }
    holder->is_ordered = 1;
    holder->below = __atomic_load_n(&ended, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&ended, &holder->below, holder, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
    return 1;
}

/* Free the holders that ended without the GIL. Freeing one may call this function again. */
void
take_ended(void)
{
    Holder *holder = ended == NULL ? NULL : __atomic_exchange_n(&ended, NULL, __ATOMIC_ACQUIRE);

    while (holder != NULL) {
        Holder *below = holder->below;
        Py_DECREF((PyObject *)holder);
        holder = below;
    }
}

void
forget_ended(void)
{
    ended = NULL;
}

/* -- HandoverFields --------------------------------------------------------------------------------------------------- */

static PyObject *
holder_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"tensor", "producer", "consumer", "parent", "is_neutral", NULL};
    PyObject *tensor, *producer, *consumer, *parent = Py_None;
    unsigned long long start, stop;
    int is_neutral = 0, closes = 0;
    Holder *holder;

    if (!PyArg_ParseTupleAndKeywords(arguments, named, "OOO!|O$p:Handover", names, &tensor, &producer, stream_type,
                                     &consumer, &parent, &is_neutral) ||
        read_extent(tensor, &start, &stop)) {
        return NULL;
    }
    if ((producer != Py_None && !PyObject_TypeCheck(producer, stream_type)) ||
        (parent != Py_None && Py_TYPE(parent) != link_type)) {
        PyErr_SetString(PyExc_TypeError, "expected a stream or None as producer, and a Link or None as parent");
        return NULL;
    }
    closes = can_close(consumer);
    if (closes == 0 && producer != Py_None) {
        closes = can_close(producer);
    }
    if (closes < 0 || (holder = (Holder *)PyType_GenericAlloc(type, 0)) == NULL) {
        return NULL;
    }
    holder->tensor = Py_NewRef(tensor);
    holder->producer = Py_NewRef(producer);
    holder->consumer = Py_NewRef(consumer);
    holder->relay = Py_NewRef(Py_None);
    if (parent != Py_None && ((Link *)parent)->root != NULL) {
        holder->parent = (Link *)Py_NewRef(parent);
        holder->root = Py_NewRef(((Link *)parent)->root);
    }
    holder->start = start;
    holder->stop = stop;
    holder->is_neutral = (char)is_neutral;
    holder->closes = (char)closes;
    prepare_end(holder);
    add_to_table(holder);
    return (PyObject *)holder;
}

static PyObject *
holder_get_link(PyObject *self, void *unused)
{
    (void)unused;
    return link_of((Holder *)self);
}

static PyObject *
holder_returned(PyObject *self, PyObject *event)
{
    Holder *holder = (Holder *)self;

    if (!is_event(event)) {
        PyErr_SetString(PyExc_TypeError, "expected an event");
        return NULL;
    }
    keep(&holder->returned, event);
    Py_RETURN_NONE;
}

static PyMemberDef holder_members[] = {
    {"_tensor", T_OBJECT_EX, offsetof(Holder, tensor), READONLY, NULL},
    {"_producer", T_OBJECT_EX, offsetof(Holder, producer), READONLY, NULL},
    {"_consumer", T_OBJECT_EX, offsetof(Holder, consumer), READONLY, NULL},
    {"_relay", T_OBJECT_EX, offsetof(Holder, relay), 0, NULL},
    {"_mark", T_ULONGLONG, offsetof(Holder, mark), 0, NULL},
    {"_is_neutral", T_BOOL, offsetof(Holder, is_neutral), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef holder_getset[] = {
    {"_link", holder_get_link, NULL, "What other hand-overs know of this one.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef holder_methods[] = {
    {"_returned", holder_returned, METH_O,
     "_returned($self, done, /)\n--\n\nThe way back is ordered already; *done* stands for what the consumer has done."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot holder_slots[] = {
    {Py_tp_doc, "What a Handover is made of."},
    {Py_tp_new, holder_new},
    {Py_tp_members, holder_members},
    {Py_tp_getset, holder_getset},
    {Py_tp_methods, holder_methods},
    {Py_tp_dealloc, holder_dealloc},
    {0, NULL},
};

static PyType_Spec holder_spec = {
    "interop._native._ext.HandoverFields", sizeof(Holder), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, holder_slots};

int
add_handover_types(PyObject *module)
{
    return add_link_type(module) || add_type(module, &holder_spec, &holder_type) ? -1 : 0;
}

/* -- functions -------------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(prepare_doc,
"prepare_handovers(add_ended, settle, /)\n"
"--\n\n"
"Take the functions of Python for a way back that is not the usual one.\n\n"
"Args:\n"
"    add_ended: puts a tuple of producer, consumer, tensor, memory and event into a queue; written in C.\n"
"    settle: looks into that queue.");

static PyObject *
prepare(PyObject *module, PyObject *arguments)
{
    PyObject *add, *look;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO:prepare_handovers", &add, &look)) {
        return NULL;
    }
    keep(&add_ended, add);
    keep(&settle, look);
    Py_RETURN_NONE;
}

static PyObject *
end(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    has_ended = 1;
    Py_RETURN_NONE;
}

PyMethodDef handover_functions[] = {
    {"end_handovers", end, METH_NOARGS, "end_handovers()\n--\n\nRelease nothing any more: the interpreter ends."},
    {"prepare_handovers", prepare, METH_VARARGS, prepare_doc},
    {NULL, NULL, 0, NULL},
};
