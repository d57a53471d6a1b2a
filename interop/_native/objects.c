/* The types: spare events, and the fields of the classes ExternalStream and Event. plain.py has the same in Python. */

#include "native.h"

PyTypeObject *pool_type, *stream_type, *event_type;

void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);

    release(self);
    Py_DECREF(type);
}

/* -- Pool ------------------------------------------------------------------------------------------------------------ */

unsigned long long
pool_take(Pool *pool)
{
    return pool->count ? pool->events[--pool->count] : 0;
}

int
pool_give(Pool *pool, unsigned long long event)
{
    if (pool->count == MOST_SPARE) {
        return 0;
    }
    pool->events[pool->count++] = event;
    return 1;
}

static PyObject *
pool_method_take(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(pool_take((Pool *)self));
}

static PyObject *
pool_method_give(PyObject *self, PyObject *event)
{
    unsigned long long handle = PyLong_AsUnsignedLongLong(event);

    if (PyErr_Occurred()) {
        return NULL;
    }
    return PyBool_FromLong(pool_give((Pool *)self, handle));
}

static PyMethodDef pool_methods[] = {
    {"take", pool_method_take, METH_NOARGS, "take($self, /)\n--\n\nA spare event, which is yours now; 0 if there is none."},
    {"give", pool_method_give, METH_O, "give($self, event, /)\n--\n\nKeep an event; False if there are enough."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, "Events of one context that nobody uses: plain ones, without timing."},
    {Py_tp_methods, pool_methods},
    {Py_tp_dealloc, free_object},
    {0, NULL},
};

static PyType_Spec pool_spec = {"interop._native._ext.Pool", sizeof(Pool), 0, Py_TPFLAGS_DEFAULT, pool_slots};

/* -- the fields of both classes -------------------------------------------------------------------------------------- */

#define CLEAR(member) Py_CLEAR(its->member);
#define VISIT(member) Py_VISIT(its->member);
/* The functions that the collector and the end of an object call. OBJECTS lists the members that are objects; *first* is
 * done before they are cleared. */
#define COLLECTED(name, Type, OBJECTS, first) \
    static int name##_traverse(PyObject *self, visitproc visit, void *arg) \
    { \
        Type *its = (Type *)self; \
        Py_VISIT(Py_TYPE(self)); \
        OBJECTS(VISIT) \
        return 0; \
    } \
    static int name##_clear(PyObject *self) \
    { \
        Type *its = (Type *)self; \
        first; \
        OBJECTS(CLEAR) \
        return 0; \
    } \
    static void name##_dealloc(PyObject *self) \
    { \
        PyObject_GC_UnTrack(self); \
        name##_clear(self); \
        free_object(self); \
    }
#define AT(type, member) offsetof(type, member)
#define BASE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)

/* Leaves the arguments to __init__, as the class in Python does. */
static PyObject *
fields_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    (void)arguments;
    (void)named;
    return PyType_GenericAlloc(type, 0);
}

/* The attribute _pool: a Pool or None. */
static PyObject *
get_pool(PyObject *self, void *offset)
{
    PyObject *pool = *(PyObject **)((char *)self + (uintptr_t)offset);

    pool = pool == NULL ? Py_None : pool;
    Py_INCREF(pool);
    return pool;
}

static int
set_pool(PyObject *self, PyObject *pool, void *offset)
{
    PyObject **member = (PyObject **)((char *)self + (uintptr_t)offset), *before = *member;

    if (pool == NULL || pool == Py_None) {
        pool = NULL;
    }
    else if (!PyObject_TypeCheck(pool, pool_type)) {
        PyErr_SetString(PyExc_TypeError, "expected a Pool or None");
        return -1;
    }
    Py_XINCREF(pool);
    *member = pool;
    Py_XDECREF(before);
    return 0;
}

/* -- StreamFields ---------------------------------------------------------------------------------------------------- */

#define STREAM_OBJECTS(DO) DO(pool) DO(adapter) DO(cuda) DO(device) DO(id) DO(natives) DO(owner) DO(priority) DO(thread)

COLLECTED(stream, Stream, STREAM_OBJECTS, )

static PyGetSetDef stream_pool[] = {
    {"_pool", get_pool, set_pool, NULL, (void *)AT(Stream, pool)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"_handle", T_ULONGLONG, AT(Stream, handle), 0, NULL},
    {"_context", T_ULONGLONG, AT(Stream, context), 0, NULL},
    {"_context_id", T_ULONGLONG, AT(Stream, context_id), 0, NULL},
    {"_adapter", T_OBJECT, AT(Stream, adapter), 0, NULL},
    {"_cuda", T_OBJECT, AT(Stream, cuda), 0, NULL},
    {"_device", T_OBJECT, AT(Stream, device), 0, NULL},
    {"_id", T_OBJECT, AT(Stream, id), 0, NULL},
    {"_natives", T_OBJECT, AT(Stream, natives), 0, NULL},
    {"owner", T_OBJECT, AT(Stream, owner), 0, NULL},
    {"_priority", T_OBJECT, AT(Stream, priority), 0, NULL},
    {"_thread", T_OBJECT, AT(Stream, thread), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "What an ExternalStream is made of."},
    {Py_tp_new, fields_new},
    {Py_tp_members, stream_members},
    {Py_tp_getset, stream_pool},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Spec stream_spec = {"interop._native._ext.StreamFields", sizeof(Stream), 0, BASE, stream_slots};

/* -- EventFields ----------------------------------------------------------------------------------------------------- */

/* Destroy a CUDA event that nobody uses; not in a process that was forked, nor at exit, which Python knows. */
void
discard_event(PyObject *cuda, unsigned long long event)
{
    PyObject *type, *value, *traceback, *done;

    PyErr_Fetch(&type, &value, &traceback);
    done = PyObject_CallMethod(cuda, "event_discard", "K", event);
    if (done == NULL) {
        PyErr_WriteUnraisable(cuda); /* and not the event's object, to which there may be no reference any more */
    }
    Py_XDECREF(done);
    PyErr_Restore(type, value, traceback);
}

/* The CUDA event returns to its pool, or is destroyed. Waits that were placed on it stay. */
static void
event_finalize(PyObject *self)
{
    Event *event = (Event *)self;
    unsigned long long handle = event->handle;

    if (handle == 0 || event->flags == NULL || event->flags == Py_None) {
        return;
    }
    /* Other finalisers of the same cycle may still use the Event object: from now on it has no CUDA event. */
    event->handle = 0;
    event->recorded = 0;
    if (event->pool != NULL && !event->handle_was_shared && pool_give(event->pool, handle)) {
        return;
    }
    discard_event(event->cuda, handle);
}

#define EVENT_OBJECTS(DO) DO(pool) DO(adapter) DO(cuda) DO(device) DO(flags) DO(owner)

/* The collector may not have called the finaliser: a subclass has its own, or it was called before. */
COLLECTED(event, Event, EVENT_OBJECTS, event_finalize(self))

static PyGetSetDef event_pool[] = {
    {"_pool", get_pool, set_pool, NULL, (void *)AT(Event, pool)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef event_members[] = {
    {"_handle", T_ULONGLONG, AT(Event, handle), 0, NULL},
    {"_context", T_ULONGLONG, AT(Event, context), 0, NULL},
    {"_capture", T_ULONGLONG, AT(Event, capture), 0, NULL},
    {"_recorded", T_BOOL, AT(Event, recorded), 0, NULL},
    {"_handle_was_shared", T_BOOL, AT(Event, handle_was_shared), 0, NULL},
    {"_adapter", T_OBJECT, AT(Event, adapter), 0, NULL},
    {"_cuda", T_OBJECT, AT(Event, cuda), 0, NULL},
    {"_device", T_OBJECT, AT(Event, device), 0, NULL},
    {"_flags", T_OBJECT, AT(Event, flags), 0, NULL},
    {"owner", T_OBJECT, AT(Event, owner), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot event_slots[] = {
    {Py_tp_doc, "What an Event is made of; when it is freed, its CUDA event returns to a pool, or is destroyed."},
    {Py_tp_new, fields_new},
    {Py_tp_members, event_members},
    {Py_tp_getset, event_pool},
    {Py_tp_traverse, event_traverse},
    {Py_tp_clear, event_clear},
    {Py_tp_finalize, event_finalize},
    {Py_tp_dealloc, event_dealloc},
    {0, NULL},
};

static PyType_Spec event_spec = {"interop._native._ext.EventFields", sizeof(Event), 0, BASE, event_slots};

int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

int
add_types(PyObject *module)
{
    return add_type(module, &pool_spec, &pool_type) || add_type(module, &event_spec, &event_type) ||
                   add_type(module, &stream_spec, &stream_type)
               ? -1
               : 0;
}
