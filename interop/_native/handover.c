/* The holder of a hand-over, the table of the hand-overs that are open, and the way back. holder.py has the same in Python.
 *
 * A holder goes with the last array over the memory: in any thread, in the middle of any call, with an exception in
 * flight, or in a collection. No line of Python runs then, in which a signal handler could raise. What the holder owns is
 * unknown to the collector: so nothing of that can have been cleared before.
 */

#include "native.h"

#include <stdlib.h>

typedef struct Holder Holder;

/* A place in the table: one of the at most two blocks of 2**bits bytes that the memory touches. */
typedef struct Spot {
    Holder *holder;
    struct Spot *newer, *older;
    unsigned long long block;
    int bits; /* 0: not in the table */
} Spot;

/* What other hand-overs know of this one, while it is open and afterwards. */
typedef struct {
    PyObject_HEAD
    Holder *holder; /* NULL: over */
    PyObject *consumer;
    PyObject *root; /* NULL: over */
} Link;

struct Holder {
    PyObject_HEAD
    PyObject *tensor;
    PyObject *producer;
    PyObject *consumer;
    PyObject *relay;
    PyObject *root;     /* what the memory is from, if the source came of another hand-over; else NULL */
    PyObject *returned; /* the event that stands for the consumer's work, if the way back is ordered already; else NULL */
    Link *link;         /* NULL until somebody asks */
    Link *parent;       /* of the hand-over that the source came of */
    Spot places[2];
    unsigned long long start, stop, number;
    char states;
    char closes; /* whether a stream can be closed: Python asks before it uses the handle */
};

static PyTypeObject *holder_type, *link_type;
static PyObject *add_ended; /* puts what Python has to do into its queue */
static PyObject *settle;    /* does it */
static int is_over;         /* whether the interpreter ends: nothing is let go of any more */

/* -- the table of open hand-overs ------------------------------------------------------------------------------------- */

enum { BUCKETS = 4096, MOST_LOOKS = 64 };

static Spot *table[BUCKETS]; /* each the newest of a list */
static Py_ssize_t lengths[65]; /* how many are open, by the number of bits of their memory's length */
static Py_ssize_t open_count;
static unsigned long long numbers;

static Spot **
bucket_of(int bits, unsigned long long block)
{
    return &table[((block * 0x9E3779B97F4A7C15ULL) ^ ((unsigned long long)bits << 40)) >> 52];
}

static void
add_place(Holder *holder, Spot *place, int bits, unsigned long long block)
{
    Spot **bucket = bucket_of(bits, block);

    place->holder = holder;
    place->bits = bits;
    place->block = block;
    place->newer = NULL;
    place->older = *bucket;
    if (place->older != NULL) {
        place->older->newer = place;
    }
    *bucket = place;
}

static void
remove_place(Spot *place)
{
    if (place->older != NULL) {
        place->older->newer = place->newer;
    }
    if (place->newer != NULL) {
        place->newer->older = place->older;
    }
    else {
        *bucket_of(place->bits, place->block) = place->older;
    }
    place->bits = 0;
}

static void
add_to_table(Holder *holder)
{
    unsigned long long length = holder->stop - holder->start, first, last;
    int bits = length ? 64 - __builtin_clzll(length) : 0;

    open_count++;
    holder->number = ++numbers;
    if (bits == 0) {
        return;
    }
    lengths[bits]++;
    first = bits == 64 ? 0 : holder->start >> bits;
    last = bits == 64 ? 0 : (holder->stop - 1) >> bits;
    add_place(holder, &holder->places[0], bits, first);
    if (last != first) {
        add_place(holder, &holder->places[1], bits, last);
    }
}

static void
remove_from_table(Holder *holder)
{
    open_count--;
    if (holder->places[0].bits) {
        lengths[holder->places[0].bits]--;
        remove_place(&holder->places[0]);
    }
    if (holder->places[1].bits) {
        remove_place(&holder->places[1]);
    }
}

/* The newest open hand-over to *stream* of the memory at *address*; failing that, to any stream; or NULL. */
static Holder *
find_holder(unsigned long long address, PyObject *stream)
{
    Holder *to_stream = NULL, *to_any = NULL;

    for (int bits = 1; bits <= 64; bits++) {
        unsigned long long block = bits == 64 ? 0 : address >> bits;
        int looks = 0;
        if (lengths[bits] == 0) {
            continue;
        }
        for (Spot *place = *bucket_of(bits, block); place != NULL && looks < MOST_LOOKS; place = place->older) {
            Holder *holder = place->holder;
            if (place->bits != bits || place->block != block) {
                continue;
            }
            looks++;
            if (address < holder->start || address >= holder->stop) {
                continue;
            }
            if (to_any == NULL || to_any->number < holder->number) {
                to_any = holder;
            }
            if (stream != Py_None && is_same_stream((Stream *)holder->consumer, (Stream *)stream)) {
                if (to_stream == NULL || to_stream->number < holder->number) {
                    to_stream = holder;
                }
                break;
            }
        }
    }
    return to_stream != NULL ? to_stream : to_any;
}

/* -- links ------------------------------------------------------------------------------------------------------------ */

/* A new reference. */
static PyObject *
link_of(Holder *holder)
{
    if (holder->link == NULL) {
        Link *link = (Link *)PyType_GenericAlloc(link_type, 0);
        if (link == NULL) {
            return NULL;
        }
        link->holder = holder;
        link->consumer = Py_NewRef(holder->consumer);
        link->root = Py_NewRef(holder->root != NULL ? holder->root : holder->tensor);
        holder->link = link;
    }
    return Py_NewRef((PyObject *)holder->link);
}

static void
link_dealloc(PyObject *self)
{
    Link *link = (Link *)self;

    Py_CLEAR(link->consumer);
    Py_CLEAR(link->root);
    free_object(self);
}

static PyMemberDef link_members[] = {
    {"consumer", T_OBJECT_EX, offsetof(Link, consumer), READONLY, "The stream that the memory was handed to."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_doc, "What other hand-overs know of one."},
    {Py_tp_members, link_members},
    {Py_tp_dealloc, link_dealloc},
    {0, NULL},
};

static PyType_Spec link_spec = {
    "interop._native._ext.Link", sizeof(Link), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, link_slots};

/* -- the extent of a tensor ------------------------------------------------------------------------------------------- */

static int
read_number(PyObject *tuple, Py_ssize_t i, long long *number)
{
    PyObject *item = PyTuple_GetItem(tuple, i);

    *number = item == NULL ? -1 : PyLong_AsLongLong(item);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The address of the first byte, and the one after the last one; twice the same if there are no elements. As
 * Tensor.extent; whoever made the tensor has checked that neither leaves the 64 bits. */
static int
read_extent(PyObject *tensor, unsigned long long *start, unsigned long long *stop)
{
    PyObject *shape, *strides, *dtype, *address;
    long long bits, lanes, first = 0, last = 0;

    if (!PyTuple_Check(tensor) || PyTuple_Size(tensor) != 8) {
        PyErr_SetString(PyExc_TypeError, "expected a Tensor");
        return -1;
    }
    address = PyTuple_GetItem(tensor, 0);
    shape = PyTuple_GetItem(tensor, 1);
    strides = PyTuple_GetItem(tensor, 2);
    dtype = PyTuple_GetItem(tensor, 3);
    *start = *stop = PyLong_AsUnsignedLongLong(address);
    if (PyErr_Occurred() || !PyTuple_Check(shape) || !PyTuple_Check(dtype) || read_number(dtype, 1, &bits) ||
        read_number(dtype, 2, &lanes)) {
        return -1;
    }
    for (Py_ssize_t i = PyTuple_Size(shape) - 1, step = 1; i >= 0; i--) {
        long long count, stride = step;
        if (read_number(shape, i, &count) || (strides != Py_None && read_number(strides, i, &stride))) {
            return -1;
        }
        if (count == 0) {
            return 0;
        }
        if (stride < 0) {
            first += stride * (count - 1);
        }
        else {
            last += stride * (count - 1);
        }
        step *= count;
    }
    bits *= lanes;
    if (bits % 8 == 0) {
        *start += (unsigned long long)(first * (bits / 8));
        *stop += (unsigned long long)((last + 1) * (bits / 8));
    }
    else { /* down to the byte that has the first bit, up to the one that has the last */
        *start += (unsigned long long)((first * bits - 7) / 8);
        *stop += (unsigned long long)(((last + 1) * bits + 7) / 8);
    }
    return 0;
}

/* -- the way back ----------------------------------------------------------------------------------------------------- */

/* Let the producer wait for the consumer's work, and keep *memory* until that is done: what PendingRelease does where
 * nothing is in the way. 0 if Python has to do it. */
static int
go_back(Holder *holder, PyObject *memory)
{
    Stream *consumer = (Stream *)holder->consumer, *producer = NULL;

    if (holder->closes || bound == NULL) {
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

/* Put it down for Python, which is called right away, and tries again in later calls. 0 if there is no memory for it. */
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
        PyErr_WriteUnraisable(settle); /* such as Ctrl-C: what was put down is there still */
    }
    Py_XDECREF(done);
    return 1;
}

static void
holder_dealloc(PyObject *self)
{
    Holder *holder = (Holder *)self;
    PyObject *type, *value, *traceback, *memory;

    if (holder->tensor == NULL) { /* it was never made */
        free_object(self);
        return;
    }
    PyErr_Fetch(&type, &value, &traceback);
    remove_from_table(holder); /* first: from now on nobody can find it, also while the GIL is released */
    if (holder->link != NULL) {
        holder->link->holder = NULL;
        Py_CLEAR(holder->link->root);
    }
    /* If the source came of a hand-over that is open, it is that one's source that is kept until the device is done, and
     * not the array between: its own end has to come when nobody uses it any more. */
    memory = holder->parent != NULL && holder->parent->holder != NULL ? holder->root : holder->tensor;
    if (holder->start == holder->stop) {
        memory = Py_None;
    }
    if (is_over || (!go_back(holder, memory) && !leave_to_python(holder, memory))) {
        Py_INCREF(holder->tensor); /* for good: nobody can know any more when it may go */
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
    free_object(self);
    PyErr_Restore(type, value, traceback);
}

/* -- HandoverFields --------------------------------------------------------------------------------------------------- */

/* Whether a stream's library can close it; -1 with an exception. */
static int
can_close(PyObject *stream)
{
    PyObject *adapter = ((Stream *)stream)->adapter, *closes;
    int answer;

    if (adapter == NULL || adapter == Py_None || ((Stream *)stream)->handle <= PER_THREAD) {
        return 0;
    }
    closes = PyObject_GetAttrString(adapter, "streams_close");
    answer = closes == NULL ? -1 : PyObject_IsTrue(closes);
    Py_XDECREF(closes);
    return answer;
}

static PyObject *
holder_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"tensor", "producer", "consumer", "parent", "states", NULL};
    PyObject *tensor, *producer, *consumer, *parent = Py_None;
    unsigned long long start, stop;
    int states = 0, closes = 0;
    Holder *holder;

    if (!PyArg_ParseTupleAndKeywords(arguments, named, "OOO!|O$p:Handover", names, &tensor, &producer, stream_type,
                                     &consumer, &parent, &states) ||
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
    holder->states = (char)states;
    holder->closes = (char)closes;
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
    {"_states", T_BOOL, offsetof(Holder, states), READONLY, NULL},
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
    return add_type(module, &link_spec, &link_type) || add_type(module, &holder_spec, &holder_type) ? -1 : 0;
}

/* -- functions -------------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(find_doc,
"find_handover(address, stream, /)\n"
"--\n\n"
"The link of the newest open hand-over to *stream*, or None, of the memory at *address*; failing that, to any stream; or\n"
"None.");

static PyObject *
find(PyObject *module, PyObject *arguments)
{
    unsigned long long address;
    PyObject *stream;
    Holder *found;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "KO:find_handover", &address, &stream)) {
        return NULL;
    }
    if (stream != Py_None && !PyObject_TypeCheck(stream, stream_type)) {
        PyErr_SetString(PyExc_TypeError, "expected a stream or None");
        return NULL;
    }
    found = open_count ? find_holder(address, stream) : NULL;
    if (found == NULL) {
        Py_RETURN_NONE;
    }
    return link_of(found);
}

static PyObject *
count(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromSsize_t(open_count);
}

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
    is_over = 1;
    Py_RETURN_NONE;
}

PyMethodDef handover_functions[] = {
    {"count_handovers", count, METH_NOARGS, "count_handovers()\n--\n\nHow many hand-overs are open."},
    {"end_handovers", end, METH_NOARGS, "end_handovers()\n--\n\nLet go of nothing any more: the interpreter ends."},
    {"find_handover", find, METH_VARARGS, find_doc},
    {"prepare_handovers", prepare, METH_VARARGS, prepare_doc},
    {NULL, NULL, 0, NULL},
};
