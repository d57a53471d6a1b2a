/* The hand-overs that are open, by where their memory lies. holder.py has the same in Python.
 *
 * Memory whose length is a number of n bits touches at most two blocks of 2**n bytes. Each is known by n and its number:
 * so the hand-overs that an address may lie in are few, and found without a search.
 */

#include "native.h"

PyTypeObject *link_type;

/* -- the table of open hand-overs ------------------------------------------------------------------------------------- */

enum { BUCKETS = 4096 };

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

void
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

void
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

/* The open hand-over of the memory at *address* that has that *mark*, or NULL. If that is 0: the newest one to *stream*;
 * failing that, to any stream. */
static Holder *
find_holder(unsigned long long address, PyObject *stream, unsigned long long mark)
{
    Holder *to_stream = NULL, *to_any = NULL;

    for (int bits = 1; bits <= 64; bits++) {
        unsigned long long block = bits == 64 ? 0 : address >> bits;
        if (lengths[bits] == 0) {
            continue;
        }
        for (Spot *place = *bucket_of(bits, block); place != NULL; place = place->older) {
            Holder *holder = place->holder;
            if (place->bits != bits || place->block != block || address < holder->start || address >= holder->stop) {
                continue;
            }
            if (mark) {
                if (holder->mark == mark) {
                    return holder;
                }
                continue;
            }
            if (to_any == NULL || to_any->number < holder->number) {
                to_any = holder;
            }
            if (stream == Py_None) {
                break; /* what follows is older */
            }
            if (is_same_stream((Stream *)holder->consumer, (Stream *)stream)) {
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
PyObject *
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
 * Tensor.extent; whoever made the tensor has checked that neither leaves the 64 bits. What is between may, and is right
 * again in the end: so the numbers are unsigned. */
int
read_extent(PyObject *tensor, unsigned long long *start, unsigned long long *stop)
{
    PyObject *shape, *strides, *dtype, *address;
    long long bits, lanes;
    unsigned long long step = 1, first = 0, last = 0;

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
    for (Py_ssize_t i = PyTuple_Size(shape) - 1; i >= 0; i--) {
        long long count, stride = (long long)step;
        if (read_number(shape, i, &count) || (strides != Py_None && read_number(strides, i, &stride))) {
            return -1;
        }
        if (count == 0) {
            return 0;
        }
        *(stride < 0 ? &first : &last) += (unsigned long long)stride * (unsigned long long)(count - 1);
        step *= (unsigned long long)count;
    }
    bits *= lanes;
    if (bits % 8 == 0) {
        *start += first * (unsigned long long)(bits / 8);
        *stop += (last + 1) * (unsigned long long)(bits / 8);
    }
    else { /* down to the byte that has the first bit, up to the one that has the last */
        *start += (unsigned long long)((long long)(first * (unsigned long long)bits - 7) / 8);
        *stop += ((last + 1) * (unsigned long long)bits + 7) / 8;
    }
    return 0;
}

/* -- functions -------------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(find_doc,
"find_handover(address, stream, mark=0, /)\n"
"--\n\n"
"The link of the open hand-over of the memory at *address* that has that *mark*, or None. If that is 0: of the newest one\n"
"to *stream*, or None; failing that, to any stream.");

static PyObject *
find(PyObject *module, PyObject *arguments)
{
    unsigned long long address, mark = 0;
    PyObject *stream;
    Holder *found;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "KO|K:find_handover", &address, &stream, &mark)) {
        return NULL;
    }
    if (stream != Py_None && !PyObject_TypeCheck(stream, stream_type)) {
        PyErr_SetString(PyExc_TypeError, "expected a stream or None");
        return NULL;
    }
    take_ended();
    found = open_count ? find_holder(address, stream, mark) : NULL;
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
    take_ended();
    return PyLong_FromSsize_t(open_count);
}

int
add_link_type(PyObject *module)
{
    return add_type(module, &link_spec, &link_type);
}

PyMethodDef open_functions[] = {
    {"count_handovers", count, METH_NOARGS, "count_handovers()\n--\n\nHow many hand-overs are open."},
    {"find_handover", find, METH_VARARGS, find_doc},
    {NULL, NULL, 0, NULL},
};
