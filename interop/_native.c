/* What Python cannot do, or not fast enough.
 *
 * Built on CPython's stable ABI (3.11), without any header of CUDA's or DLPack's. Without a compiler the package works
 * all the same, in plain Python, except that it cannot give arrays away by DLPack.
 *
 * One interpreter a process: what is static here is the main interpreter's. The module refuses to be imported by
 * another one, and interop then takes the plain way.
 */

#define _GNU_SOURCE /* syscall */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)) /* CUDA's two Linux platforms */
#include <sys/syscall.h>
#include <unistd.h>
#define CAN_PROBE
#endif

/* -- DLPack -----------------------------------------------------------------------------------------------------
 *
 * https://dmlc.github.io/dlpack/latest/c_api.html, version 1.0, and the structure from before versions. A capsule must
 * be freed by a C function that works in any thread, with or without the GIL, with an exception in flight, and after
 * the end of the interpreter: which no Python function can.
 */

typedef struct {
    void *data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} Tensor;

typedef struct Old {
    Tensor tensor;
    void *owner;
    void (*deleter)(struct Old *);
} Old; /* DLManagedTensor */

typedef struct Versioned {
    uint32_t major;
    uint32_t minor;
    void *owner;
    void (*deleter)(struct Versioned *);
    uint64_t flags;
    Tensor tensor;
} Versioned; /* DLManagedTensorVersioned */

#define READ_ONLY 1

static const char OLD[] = "dltensor", VERSIONED[] = "dltensor_versioned";

static void
let_go(PyObject *owner)
{
    PyObject *type, *value, *traceback;
    PyGILState_STATE state;

    if (!Py_IsInitialized()) {
        return; /* it goes with the process */
    }
    state = PyGILState_Ensure();
    PyErr_Fetch(&type, &value, &traceback);
    Py_DECREF(owner);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(state);
}

static void
delete_old(Old *managed)
{
    PyObject *owner = managed->owner;
    free(managed);
    let_go(owner);
}

static void
delete_versioned(Versioned *managed)
{
    PyObject *owner = managed->owner;
    free(managed);
    let_go(owner);
}

/* Of the capsule: if nobody has consumed it, which would have changed its name. */
static void
destroy_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, OLD)) {
        delete_old(PyCapsule_GetPointer(capsule, OLD));
    }
    else if (PyCapsule_IsValid(capsule, VERSIONED)) {
        delete_versioned(PyCapsule_GetPointer(capsule, VERSIONED));
    }
}

/* The numbers of a tuple of ndim ints. */
static int
read_numbers(PyObject *tuple, Py_ssize_t ndim, int64_t *numbers)
{
    for (Py_ssize_t i = 0; i < ndim; i++) {
        PyObject *item = PyTuple_GetItem(tuple, i);
        if (item == NULL) {
            return -1;
        }
        numbers[i] = PyLong_AsLongLong(item);
        if (numbers[i] == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(dlpack_capsule_doc,
"dlpack_capsule(owner, versioned, read_only, address, shape, strides, dtype, device, /)\n"
"--\n\n"
"A DLPack capsule over memory that lives for as long as *owner*, which it keeps alive.\n\n"
"Args:\n"
"    owner: released when the consumer is done, or with a capsule that nobody consumed.\n"
"    versioned: whether it is of version 1.0, or of the form from before versions.\n"
"    read_only: whether it says so; only version 1.0 can.\n"
"    address: of the first element.\n"
"    shape, strides: tuples of the same length, in elements.\n"
"    dtype: DLPack's code, bits and lanes.\n"
"    device: DLPack's type and number of the device.");

static PyObject *
dlpack_capsule(PyObject *module, PyObject *arguments)
{
    PyObject *owner, *shape, *strides, *capsule;
    int versioned, read_only, device_type, device_id;
    unsigned char code, bits;
    unsigned short lanes;
    unsigned long long address;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OppKO!O!(bbH)(ii):dlpack_capsule", &owner, &versioned, &read_only, &address,
                          &PyTuple_Type, &shape, &PyTuple_Type, &strides, &code, &bits, &lanes, &device_type,
                          &device_id)) {
        return NULL;
    }
    Py_ssize_t ndim = PyTuple_Size(shape);
    size_t head = versioned ? sizeof(Versioned) : sizeof(Old); /* both are multiples of eight */
    char *memory = calloc(1, head + 2 * sizeof(int64_t) * (size_t)ndim);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    Tensor *tensor = versioned ? &((Versioned *)memory)->tensor : &((Old *)memory)->tensor;
    int64_t *numbers = (int64_t *)(memory + head);
    tensor->data = (void *)(uintptr_t)address;
    tensor->device_type = device_type;
    tensor->device_id = device_id;
    tensor->ndim = (int32_t)ndim;
    tensor->code = code;
    tensor->bits = bits;
    tensor->lanes = lanes;
    tensor->shape = numbers;
    tensor->strides = numbers + ndim;
    if (read_numbers(shape, ndim, tensor->shape) || read_numbers(strides, ndim, tensor->strides)) {
        free(memory);
        return NULL;
    }
    if (versioned) {
        Versioned *managed = (Versioned *)memory;
        managed->major = 1;
        managed->flags = read_only ? READ_ONLY : 0;
        managed->owner = owner;
        managed->deleter = delete_versioned;
    }
    else {
        Old *managed = (Old *)memory;
        managed->owner = owner;
        managed->deleter = delete_old;
    }
    capsule = PyCapsule_New(memory, versioned ? VERSIONED : OLD, destroy_capsule);
    if (capsule == NULL) {
        free(memory);
        return NULL;
    }
    Py_INCREF(owner);
    return capsule;
}

/* -- CUDA ---------------------------------------------------------------------------------------------------------
 *
 * The driver's entry points, by their addresses. What is done here is what the plain methods of ExternalStream and
 * Event do in the usual case, and no more. In every other case the plain method is called, as if nothing had happened;
 * and what it means that the driver has failed, methods in Python say too: so there is one place that knows the rules.
 */

enum { SUCCESS = 0, NOT_READY = 600 };
enum { UNUSUAL = -1 }; /* the plain way is to be gone, from the beginning */
/* With the driver's answer: the context, or the mode of captures, that was before could not be put back. */
enum { NOT_RESTORED = 1 << 20, MODE_NOT_RESTORED = 1 << 21 };
enum { NOT_CAPTURING = 0, RELAXED = 2 };
enum { LEGACY = 1, PER_THREAD = 2 }; /* the handles of default streams, which are no addresses */
enum { FIRST_PAGE = 4096 };          /* nothing is mapped below */

static struct {
    int (*event_record)(void *, void *);
    int (*event_query)(void *);
    int (*event_synchronize)(void *);
    int (*event_destroy)(void *);
    int (*stream_wait_event)(void *, void *, unsigned int);
    int (*stream_query)(void *);
    int (*stream_synchronize)(void *);
    int (*stream_is_capturing)(void *, int *);
    int (*exchange_capture_mode)(int *);
    int (*get_context)(void **);
    int (*set_context)(void *);
    int (*event_create)(void **, unsigned int);
    int (*stream_get_context)(void *, void **);
    int (*context_get_id)(void *, unsigned long long *);
} cuda;

static PyObject *real;      /* what the plain way takes for the driver that is bound; NULL before */
static int is_simulation;   /* whether that is a simulation, as in tests */
static PyObject *active;    /* what new streams are made under: the same, or a simulation */
static PyObject *pools;     /* the spare events of what is bound, by the id of the context */
static PyObject *primaries; /* its primary contexts, by the ordinal of the device; those that were used */

static int watched; /* whether somebody is to be told of every call, which the plain methods do */

static void *
pointer(unsigned long long handle)
{
    return (void *)(uintptr_t)handle;
}

/* Keep a reference to an object, in place of the one that was kept. */
static void
hold(PyObject **place, PyObject *object)
{
    PyObject *before = *place;

    Py_INCREF(object);
    *place = object;
    Py_XDECREF(before);
}

PyDoc_STRVAR(bind_doc,
"bind(addresses, cuda, pools, primaries, /)\n"
"--\n\n"
"Take the driver.\n\n"
"Args:\n"
"    addresses: of cuEventRecord, cuEventQuery, cuEventSynchronize, cuEventDestroy, cuStreamWaitEvent, cuStreamQuery,\n"
"        cuStreamSynchronize, cuStreamIsCapturing, cuThreadExchangeStreamCaptureMode, cuCtxGetCurrent,\n"
"        cuCtxSetCurrent, cuEventCreate, cuStreamGetCtx and cuCtxGetId.\n"
"    cuda: what the plain way takes for it.\n"
"    pools: the spare events, by the id of the context.\n"
"    primaries: the primary contexts that were used, by the ordinal of the device.");

static PyObject *
bind(PyObject *module, PyObject *arguments)
{
    PyObject *addresses, *object, *simulation, *spare, *used;
    unsigned long long a[14];

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!OO!O!:bind", &PyTuple_Type, &addresses, &object, &PyDict_Type, &spare,
                          &PyDict_Type, &used) ||
        !PyArg_ParseTuple(addresses, "KKKKKKKKKKKKKK:bind", a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6, a + 7, a + 8,
                          a + 9, a + 10, a + 11, a + 12, a + 13) ||
        (simulation = PyObject_GetAttrString(object, "simulation")) == NULL) {
        return NULL;
    }
    is_simulation = simulation != Py_None;
    Py_DECREF(simulation);
    cuda.event_record = (int (*)(void *, void *))pointer(a[0]);
    cuda.event_query = (int (*)(void *))pointer(a[1]);
    cuda.event_synchronize = (int (*)(void *))pointer(a[2]);
    cuda.event_destroy = (int (*)(void *))pointer(a[3]);
    cuda.stream_wait_event = (int (*)(void *, void *, unsigned int))pointer(a[4]);
    cuda.stream_query = (int (*)(void *))pointer(a[5]);
    cuda.stream_synchronize = (int (*)(void *))pointer(a[6]);
    cuda.stream_is_capturing = (int (*)(void *, int *))pointer(a[7]);
    cuda.exchange_capture_mode = (int (*)(int *))pointer(a[8]);
    cuda.get_context = (int (*)(void **))pointer(a[9]);
    cuda.set_context = (int (*)(void *))pointer(a[10]);
    cuda.event_create = (int (*)(void **, unsigned int))pointer(a[11]);
    cuda.stream_get_context = (int (*)(void *, void **))pointer(a[12]);
    cuda.context_get_id = (int (*)(void *, unsigned long long *))pointer(a[13]);
    hold(&real, object);
    hold(&pools, spare);
    hold(&primaries, used);
    Py_RETURN_NONE;
}

/* Whether there is a driver to call; else an exception says that there is none. */
static int
is_bound(void)
{
    if (cuda.event_create == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no driver is bound");
        return 0;
    }
    return 1;
}

PyDoc_STRVAR(switch_context_doc,
"switch_context(context, /)\n"
"--\n\n"
"Make a context current; the one that was, 0 for none, or None if the driver says anything but success.");

static PyObject *
switch_context(PyObject *module, PyObject *context)
{
    void *before, *after = pointer(PyLong_AsUnsignedLongLong(context));
    int code;

    (void)module;
    if (PyErr_Occurred() || !is_bound()) {
        return NULL;
    }
    /* With the GIL: it is a look at what the calling thread is bound to, and to release it costs more than the look. */
    code = cuda.get_context(&before);
    if (code == SUCCESS && before != after) {
        Py_BEGIN_ALLOW_THREADS
        code = cuda.set_context(after);
        Py_END_ALLOW_THREADS
    }
    if (code != SUCCESS) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong((uintptr_t)before);
}

PyDoc_STRVAR(watch_doc,
"watch(on, /)\n"
"--\n\n"
"Whether every call is to go the plain way, which tells the watchers.");

static PyObject *
watch(PyObject *module, PyObject *on)
{
    int truth = PyObject_IsTrue(on);

    (void)module;
    if (truth < 0) {
        return NULL;
    }
    watched = truth;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(activate_doc,
"activate(cuda, /)\n"
"--\n\n"
"Take note of what new streams are made under. While that is not what was bound, but a simulation, other libraries'\n"
"objects go the plain way, which tells that they are not simulated.");

static PyObject *
activate(PyObject *module, PyObject *object)
{
    (void)module;
    hold(&active, object);
    Py_RETURN_NONE;
}

/* -- spare events ------------------------------------------------------------------------------------------------- */

enum { MOST_SPARE = 256 };

typedef struct {
    PyObject_HEAD
    char is_hot; /* whether they are events of the real GPU, and not of a simulation */
    Py_ssize_t count;
    unsigned long long events[MOST_SPARE];
} Pool;

static PyTypeObject *pool_type;

static unsigned long long
pool_take(Pool *pool)
{
    return pool->count ? pool->events[--pool->count] : 0;
}

static int
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

static void
plain_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);

    release(self);
    Py_DECREF(type);
}

static PyMethodDef pool_methods[] = {
    {"take", pool_method_take, METH_NOARGS, "take($self, /)\n--\n\nA spare event, which is yours now; 0 if there is none."},
    {"give", pool_method_give, METH_O, "give($self, event, /)\n--\n\nKeep an event; False if there are enough."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pool_members[] = {
    {"is_hot", T_BOOL, offsetof(Pool, is_hot), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, "Events of one context that nobody uses: plain ones, without timing."},
    {Py_tp_members, pool_members},
    {Py_tp_methods, pool_methods},
    {Py_tp_dealloc, plain_dealloc},
    {0, NULL},
};

static PyType_Spec pool_spec = {"interop._native.Pool", sizeof(Pool), 0, Py_TPFLAGS_DEFAULT, pool_slots};

/* -- streams and events: what the classes in Python are made of ------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    unsigned long long handle;
    unsigned long long context;
    unsigned long long context_id;
    unsigned long long needs;
    Pool *pool; /* of its context; not NULL: a stream of the real GPU, no per-thread default one, and ready */
    PyObject *adapter;
    PyObject *cuda;
    PyObject *device;
    PyObject *id;
    PyObject *natives;
    PyObject *owner;
    PyObject *priority;
    PyObject *thread;
} Stream;

typedef struct {
    PyObject_HEAD
    unsigned long long handle;
    unsigned long long capture;
    char owned;
    char recorded;
    char exposed;
    Pool *pool; /* that the event goes back to; not NULL: it is a plain one, without timing */
    PyObject *adapter;
    PyObject *cuda;
    PyObject *device;
    PyObject *flags;
    PyObject *owner;
} Event;

static PyTypeObject *stream_type, *event_type;

#define STREAM_OBJECTS(DO) \
    DO(stream->pool) DO(stream->adapter) DO(stream->cuda) DO(stream->device) DO(stream->id) DO(stream->natives) \
    DO(stream->owner) DO(stream->priority) DO(stream->thread)
#define EVENT_OBJECTS(DO) \
    DO(event->pool) DO(event->adapter) DO(event->cuda) DO(event->device) DO(event->flags) DO(event->owner)
#define CLEAR(member) Py_CLEAR(member);
#define VISIT(member) Py_VISIT(member);

/* As the plain classes', which leave what they are given to __init__. */
static PyObject *
fields_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    (void)arguments;
    (void)named;
    return PyType_GenericAlloc(type, 0);
}

static int
stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    Stream *stream = (Stream *)self;

    Py_VISIT(Py_TYPE(self));
    STREAM_OBJECTS(VISIT)
    return 0;
}

static int
stream_clear(PyObject *self)
{
    Stream *stream = (Stream *)self;

    STREAM_OBJECTS(CLEAR)
    return 0;
}

static void
stream_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    plain_dealloc(self);
}

static int
event_traverse(PyObject *self, visitproc visit, void *arg)
{
    Event *event = (Event *)self;

    Py_VISIT(Py_TYPE(self));
    EVENT_OBJECTS(VISIT)
    return 0;
}

static int
event_clear(PyObject *self)
{
    Event *event = (Event *)self;

    EVENT_OBJECTS(CLEAR)
    return 0;
}

/* What CUDA does not need any more goes to the pool; waits that were placed on it stay. The rest is destroyed. */
static void
event_finalize(PyObject *self)
{
    Event *event = (Event *)self;
    unsigned long long handle = event->handle;
    PyObject *type, *value, *traceback, *done;

    if (!event->owned || !handle) {
        return;
    }
    /* Finalisers of the same cycle may still use it: it stands for nothing from now on. */
    event->handle = 0;
    event->owned = event->recorded = 0;
    if (event->pool != NULL && !event->exposed && pool_give(event->pool, handle)) {
        return;
    }
    PyErr_Fetch(&type, &value, &traceback);
    done = PyObject_CallMethod(event->cuda, "event_discard", "K", handle);
    if (done == NULL) {
        PyErr_WriteUnraisable(event->cuda); /* and not self, to which there may be no reference any more */
    }
    Py_XDECREF(done);
    PyErr_Restore(type, value, traceback);
}

static void
event_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    event_finalize(self); /* has nothing left to do if the collector or the subclass has called it */
    event_clear(self);
    plain_dealloc(self);
}

#define AT(type, member) offsetof(type, member)

/* The pool of a stream or event: as any member in Python, but that it is a pool, or none. */
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

static PyGetSetDef stream_pool[] = {
    {"_pool", get_pool, set_pool, NULL, (void *)AT(Stream, pool)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef event_pool[] = {
    {"_pool", get_pool, set_pool, NULL, (void *)AT(Event, pool)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"_handle", T_ULONGLONG, AT(Stream, handle), 0, NULL},
    {"_context", T_ULONGLONG, AT(Stream, context), 0, NULL},
    {"_context_id", T_ULONGLONG, AT(Stream, context_id), 0, NULL},
    {"_needs", T_ULONGLONG, AT(Stream, needs), 0, NULL},
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

static PyMemberDef event_members[] = {
    {"_handle", T_ULONGLONG, AT(Event, handle), 0, NULL},
    {"_capture", T_ULONGLONG, AT(Event, capture), 0, NULL},
    {"_owned", T_BOOL, AT(Event, owned), 0, NULL},
    {"_recorded", T_BOOL, AT(Event, recorded), 0, NULL},
    {"_exposed", T_BOOL, AT(Event, exposed), 0, NULL},
    {"_adapter", T_OBJECT, AT(Event, adapter), 0, NULL},
    {"_cuda", T_OBJECT, AT(Event, cuda), 0, NULL},
    {"_device", T_OBJECT, AT(Event, device), 0, NULL},
    {"_flags", T_OBJECT, AT(Event, flags), 0, NULL},
    {"owner", T_OBJECT, AT(Event, owner), 0, NULL},
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

static PyType_Slot event_slots[] = {
    {Py_tp_doc, "What an Event is made of; goes to its pool, or is destroyed, with its last reference."},
    {Py_tp_new, fields_new},
    {Py_tp_members, event_members},
    {Py_tp_getset, event_pool},
    {Py_tp_traverse, event_traverse},
    {Py_tp_clear, event_clear},
    {Py_tp_finalize, event_finalize},
    {Py_tp_dealloc, event_dealloc},
    {0, NULL},
};

#define BASE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)

static PyType_Spec stream_spec = {"interop._native.StreamFields", sizeof(Stream), 0, BASE, stream_slots};
static PyType_Spec event_spec = {"interop._native.EventFields", sizeof(Event), 0, BASE, event_slots};

/* -- the usual case ------------------------------------------------------------------------------------------------
 *
 * If the plain way is to be gone, nothing has been done yet that it may not do once more. Where the GIL is released,
 * other threads may change every object meanwhile: what is needed of them is read before.
 */

static PyObject *foreign;                        /* by its address, the stream that an object of another library is */
static PyObject *closable;                       /* likewise of objects that can be closed */
static PyObject *lives;                          /* what takes an object out of both before its address is another's */
static PyObject *adapters;                       /* by a class, those of its libraries, if they were looked for */
static PyObject *stated_by;                      /* "__cuda_stream__" */
static PyObject *simulated, *stays, *closes, *life, *asked, *placed, *marked, *living; /* the names of what is asked for */
static PyTypeObject *stream_class, *event_class; /* interop.ExternalStream and interop.Event */
static PyObject *plain_flags;                    /* of an event without timing */
static PyObject *refuse_stream, *refuse_event;   /* functions that raise what is wrong with an object */

/* Most are of the class itself, which is told faster than that they are of a subclass. */
static int
is_stream(PyObject *object)
{
    return Py_TYPE(object) == stream_class || PyObject_TypeCheck(object, stream_type);
}

static int
is_event(PyObject *object)
{
    return Py_TYPE(object) == event_class || PyObject_TypeCheck(object, event_type);
}

/* Find the context of a stream that was not used before, if that is one whose spare events are known. */
static void
locate(Stream *stream)
{
    unsigned long long handle = stream->handle, id = 0;
    void *context = pointer(stream->needs);
    PyObject *key, *pool;
    int code = SUCCESS;

    if (real == NULL || stream->context_id || stream->cuda != real || (context != NULL ? handle != LEGACY : handle <= PER_THREAD)) {
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    if (context == NULL) {
        code = cuda.stream_get_context(pointer(handle), &context);
    }
    if (code == SUCCESS) {
        code = cuda.context_get_id(context, &id);
    }
    Py_END_ALLOW_THREADS
    if (code != SUCCESS || (key = PyLong_FromUnsignedLongLong(id)) == NULL) {
        PyErr_Clear(); /* of memory */
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

/* Whether the driver can be asked about the stream as it is, and nobody is to be told. */
static inline int
is_usual(Stream *stream)
{
    if (watched) {
        return 0;
    }
    if (stream->pool == NULL) {
        locate(stream);
    }
    return stream->pool != NULL;
}

/* A stream, as the driver is told of it: the legacy default stream is that of the context that is current. */
typedef struct {
    unsigned long long handle, needs;
} Place;

static inline Place
place_of(Stream *stream)
{
    Place place = {stream->handle, stream->needs};

    return place;
}

/* Make current what a stream needs. Without the GIL, as all that follows here. */
static int
enter(Place stream, void **before)
{
    int code = cuda.get_context(before);

    return code == SUCCESS && *before != pointer(stream.needs) ? cuda.set_context(pointer(stream.needs)) : code;
}

/* Make current what was before; the code, if that can be done. */
static int
leave(Place stream, void *before, int code)
{
    int failed = before == pointer(stream.needs) ? SUCCESS : cuda.set_context(before);

    return failed == SUCCESS ? code : NOT_RESTORED + failed;
}

/* What a call answers where that is current which a stream needs, if it needs anything. */
#define THERE(stream, code, call) \
    if (!(stream).needs) { \
        code = call; \
    } \
    else { \
        void *before; \
        code = enter(stream, &before) == SUCCESS ? leave(stream, before, call) : UNUSUAL; \
    }

/* SUCCESS if a stream captures nothing. */
static inline int
captures_nothing(Place stream)
{
    int status, code;

    THERE(stream, code, cuda.stream_is_capturing(pointer(stream.handle), &status))
    return code >= NOT_RESTORED || (code == SUCCESS && status == NOT_CAPTURING) ? code : UNUSUAL;
}

static inline int
record_on(Place stream, unsigned long long event)
{
    int code;

    THERE(stream, code, cuda.event_record(pointer(event), pointer(stream.handle)))
    return code;
}

static inline int
wait_on(Place stream, unsigned long long event)
{
    int code;

    THERE(stream, code, cuda.stream_wait_event(pointer(stream.handle), pointer(event), 0))
    return code;
}

/* Query or synchronise, without breaking the capture of some other stream: in the modes "global" and "thread local",
 * CUDA forbids every query and synchronise, related or not, and punishes one by invalidating the capture. */
static inline int
ask(int (*call)(void *), unsigned long long handle)
{
    int mode = RELAXED, code, failed;

    if (cuda.exchange_capture_mode(&mode) != SUCCESS) {
        return UNUSUAL;
    }
    code = call(pointer(handle));
    failed = cuda.exchange_capture_mode(&mode);
    return failed == SUCCESS ? code : MODE_NOT_RESTORED + failed;
}

static inline int
ask_about(int (*call)(void *), Place stream)
{
    int code;

    THERE(stream, code, ask(call, stream.handle))
    return code;
}

/* Whether this process can read the eight bytes at an address; 1 where that cannot be found out. As in _cudart.py, which
 * says why so. */
static int
can_be_read(unsigned long long address)
{
    if (address < FIRST_PAGE) {
        return 0;
    }
#ifdef CAN_PROBE
    return !syscall(SYS_rt_sigprocmask, -1, pointer(address & ~7ULL), NULL, 8) || errno != EFAULT;
#else
    return 1;
#endif
}

/* The handle in an answer; 0 if it is none: the plain way then asks once more, and says what is wrong. */
static unsigned long long
handle_in(PyObject *answer)
{
    unsigned long long handle = answer != NULL && PyLong_CheckExact(answer) ? PyLong_AsUnsignedLongLong(answer) : 0;

    if (answer != NULL && PyErr_Occurred()) { /* it is out of range */
        PyErr_Clear();
        return 0;
    }
    return handle;
}

/* Raise what the plain way raises where an object could not be asked; what is no Exception stays as it is. It is not asked
 * again: what it does for an answer may ask others, and each of them would be asked twice as often. */
static void
refuse(PyObject *in_words, PyObject *object, PyObject *adapter)
{
    PyObject *type, *error, *traceback;

    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(error, traceback);
        }
        Py_XDECREF(PyObject_CallFunctionObjArgs(in_words, object, adapter, error, NULL));
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
    }
}

/* The handle in what an object states by the protocol; 0 if it is none, or with the exception that came of it. */
static unsigned long long
handle_stated(PyObject *stated)
{
    unsigned long long handle = 0;

    if (stated != NULL && PyTuple_CheckExact(stated) && PyTuple_Size(stated) == 2) {
        PyObject *version = PyTuple_GetItem(stated, 0);
        if (PyLong_CheckExact(version) && PyLong_AsLong(version) == 0) {
            handle = handle_in(PyTuple_GetItem(stated, 1));
        }
        PyErr_Clear(); /* of a version that is out of range */
    }
    return handle;
}

/* The handle that an object states by the protocol, a method or an attribute, which its class has: what some __getattr__
 * makes up is left to the plain way, and what only the object has. 0 if it is none, or with an exception. */
static unsigned long long
handle_by_protocol(PyObject *object)
{
    PyObject *of_class = PyObject_GetAttr((PyObject *)Py_TYPE(object), stated_by), *stated, *method;
    unsigned long long handle;

    if (of_class == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
        }
        return 0;
    }
    Py_DECREF(of_class);
    stated = PyObject_GetAttr(object, stated_by);
    if (stated != NULL && PyCallable_Check(stated)) {
        method = stated;
        stated = PyObject_CallNoArgs(method);
        Py_DECREF(method);
    }
    handle = handle_stated(stated);
    Py_XDECREF(stated);
    if (PyErr_Occurred()) {
        refuse(refuse_stream, object, Py_None);
    }
    return handle;
}

/* Whether an adapter says True of its library; -1 with an exception. */
static int
says(PyObject *adapter, PyObject *name)
{
    PyObject *answer = PyObject_GetAttr(adapter, name);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);

    Py_XDECREF(answer);
    return truth;
}

/* What a weak reference calls that is cleared, bound to the identity of an object: it can become another's now. */
static PyObject *
forget(PyObject *key, PyObject *gone)
{
    if (PyDict_GetItemWithError(lives, key) == gone) {
        PyObject *of_its_kind[] = {foreign, closable, lives};
        for (int i = 0; i < 3; i++) {
            if (PyDict_DelItem(of_its_kind[i], key) < 0) {
                PyErr_Clear(); /* it is not there */
            }
        }
    }
    PyErr_Clear();
    Py_RETURN_NONE;
}

static PyMethodDef forget_definition = {"forget", forget, METH_O, NULL};

/* Remember which stream an object is, for as long as it lives, if its library says that it stays the same, or whether
 * it is closed. 0 with an exception. */
static int
know(PyObject *object, PyObject *adapter, Stream *stream)
{
    PyObject *lives_as_long, *key = NULL, *callback = NULL, *reference = NULL;
    int for_good = says(adapter, stays), until_closed = says(adapter, closes), done;

    if (for_good < 0 || until_closed < 0) {
        return 0;
    }
    if (!for_good && !until_closed) {
        return 1;
    }
    lives_as_long = PyObject_CallMethodObjArgs(adapter, life, object, NULL);
    if (lives_as_long == NULL || lives_as_long == Py_None) {
        Py_XDECREF(lives_as_long);
        return lives_as_long != NULL;
    }
    done = (key = PyLong_FromVoidPtr(object)) != NULL &&
           (callback = PyCFunction_New(&forget_definition, key)) != NULL &&
           (reference = PyWeakref_NewRef(lives_as_long, callback)) != NULL &&
           PyDict_SetItem(lives, key, reference) == 0 &&
           PyDict_SetItem(until_closed ? closable : foreign, key, (PyObject *)stream) == 0;
    if (done && lives_as_long != object) { /* so that it can be seen whether it is still the object's */
        Py_INCREF(reference);
        stream->owner = reference;
    }
    Py_XDECREF(reference);
    Py_XDECREF(callback);
    Py_XDECREF(key);
    Py_DECREF(lives_as_long);
    return done;
}

/* The context of an object that is the legacy default stream, and the device if its library says; 0 as above. */
static unsigned long long
context_of(PyObject *object, PyObject *adapter, PyObject **device)
{
    void *current = NULL;

    *device = adapter == NULL ? NULL : PyObject_CallMethodObjArgs(adapter, placed, object, NULL);
    if (*device == NULL && adapter != NULL) {
        return 0;
    }
    if (*device == NULL || *device == Py_None) { /* with the GIL, as in switch_context */
        return cuda.get_context(&current) == SUCCESS ? (uintptr_t)current : 0;
    }
    return PyLong_CheckExact(*device) ? handle_in(PyDict_GetItemWithError(primaries, *device)) : 0;
}

/* The one adapter for the class of an object; Py_None if there is none for it; NULL if the plain way is to be gone, or
 * with an exception. A borrowed reference. */
static PyObject *
adapter_of(PyObject *object)
{
    PyObject *found;

    if (PyType_Check(object) || PyLong_Check(object) || /* which the plain way takes for none, or for a handle */
        (found = PyDict_GetItemWithError(adapters, (PyObject *)Py_TYPE(object))) == NULL || PyTuple_Size(found) > 1) {
        return NULL;
    }
    return PyTuple_Size(found) ? PyTuple_GetItem(found, 0) : Py_None;
}

/* The handle of another library's event that was created; 0 as above. */
static unsigned long long
foreign_event(PyObject *object)
{
    PyObject *adapter, *answer;
    unsigned long long handle;

    if (active != real || (adapter = adapter_of(object)) == NULL || adapter == Py_None) {
        return 0;
    }
    Py_INCREF(adapter); /* before anything runs */
    answer = PyObject_CallMethodObjArgs(adapter, marked, object, NULL);
    if (answer == NULL) {
        refuse(refuse_event, object, adapter);
    }
    handle = handle_in(answer);
    Py_XDECREF(answer);
    Py_DECREF(adapter);
    return can_be_read(handle) ? handle : 0;
}

/* A new stream, without an owner: the one that an object is, of a class with one adapter or none. NULL if the plain way
 * is to be gone, or with an exception. Calls no CUDA, except to find out which context is current. */
static Stream *
borrowed(PyObject *object)
{
    PyObject *adapter = adapter_of(object), *device = NULL;
    unsigned long long handle = 0, context = 0;
    Stream *made = NULL;

    if (adapter == NULL) {
        return NULL;
    }
    if (adapter == Py_None) {
        adapter = NULL;
        handle = handle_by_protocol(object);
    }
    else {
        Py_INCREF(adapter); /* before anything runs */
        if (says(adapter, simulated) == is_simulation) {
            PyObject *answer = PyObject_CallMethodObjArgs(adapter, asked, object, NULL);
            if (answer == NULL) {
                refuse(refuse_stream, object, adapter);
            }
            handle = handle_in(answer);
            Py_XDECREF(answer);
        }
    }
    if (handle == LEGACY ? (context = context_of(object, adapter, &device)) != 0
                         : handle > PER_THREAD && can_be_read(handle)) {
        made = (Stream *)PyType_GenericAlloc(stream_class, 0);
    }
    if (made != NULL) {
        made->handle = handle;
        made->context = made->needs = context;
        made->device = device;
        device = NULL;
        Py_INCREF(real);
        made->cuda = real;
        made->adapter = adapter;
        if (adapter != NULL) {
            Py_INCREF(adapter);
            if (handle > PER_THREAD && !know(object, adapter, made)) {
                Py_DECREF((PyObject *)made);
                made = NULL;
            }
        }
    }
    Py_XDECREF(device);
    Py_XDECREF(adapter);
    return made;
}

/* Whether what is known is of this object; 0 also with an exception. What lives as long as an object may outlive it in a copy of it, and another
 * object be at its address. */
static int
is_known_of(Stream *known, PyObject *object)
{
    PyObject *attribute;
    int same;

    if (known->owner == NULL || known->owner == Py_None) {
        return 1;
    }
    attribute = PyObject_GetAttr(object, living);
    if (attribute == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
        }
        return 0;
    }
    same = attribute != Py_None && attribute == PyWeakref_GetObject(known->owner);
    Py_DECREF(attribute);
    return same;
}

/* A new reference to the stream that an object is, of whatever library; without an owner, if it is not of ours. NULL if
 * the plain way is to be gone, or with an exception. */
static Stream *
stream_of(PyObject *object)
{
    PyObject *key, *known;
    int is_open;

    if (is_stream(object)) {
        Py_INCREF(object);
        return (Stream *)object;
    }
    if (active != real || (key = PyLong_FromVoidPtr(object)) == NULL) {
        return NULL;
    }
    known = PyDict_GetItemWithError(foreign, key);
    Py_XINCREF(known);
    if (known == NULL && !PyErr_Occurred() && (known = PyDict_GetItemWithError(closable, key)) != NULL) {
        PyObject *stated;
        Py_INCREF(known); /* before the object is asked: to make the answer may set off a collection */
        stated = PyObject_CallMethodObjArgs(object, stated_by, NULL);
        is_open = handle_stated(stated) == ((Stream *)known)->handle;
        Py_XDECREF(stated);
        if (!is_open) {
            if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) {
                PyErr_Clear();
            }
            Py_DECREF(known); /* it was closed */
            Py_DECREF(key);
            return NULL;
        }
    }
    Py_DECREF(key);
    if (known == NULL && PyErr_Occurred()) {
        return NULL;
    }
    /* Not if it is of another GPU or simulation, that is over. */
    if (known != NULL && ((Stream *)known)->cuda == real && is_known_of((Stream *)known, object)) {
        return (Stream *)known;
    }
    Py_XDECREF(known);
    return PyErr_Occurred() ? NULL : borrowed(object);
}

/* Whether two streams are one, as == has it. */
static int
is_same(Stream *one, Stream *other)
{
    return one->handle == other->handle && one->needs == other->needs && one->cuda == other->cuda &&
           (one->handle != PER_THREAD || one->thread == other->thread);
}

/* SUCCESS, UNUSUAL, or what the driver has answered to *call*. */
static int
order(Stream *consumer, Stream *producer, const char **call)
{
    Place waiting, awaited;
    unsigned long long event;
    Pool *pool;
    int code;

    if (is_same(consumer, producer)) {
        return SUCCESS;
    }
    if (!is_usual(consumer) || !is_usual(producer) || !(event = pool_take(producer->pool))) {
        return UNUSUAL;
    }
    waiting = place_of(consumer);
    awaited = place_of(producer);
    pool = producer->pool;
    Py_INCREF((PyObject *)pool);
    *call = NULL;
    Py_BEGIN_ALLOW_THREADS
    code = captures_nothing(waiting);
    /* The legacy default stream cannot join a capture, and must not be touched while a blocking stream captures. */
    if (code == SUCCESS && (waiting.needs || awaited.needs)) {
        code = captures_nothing(awaited);
    }
    if (code == SUCCESS) {
        *call = "cudaEventRecord";
        code = record_on(awaited, event);
    }
    if (code == SUCCESS) {
        *call = "cudaStreamWaitEvent";
        code = wait_on(waiting, event);
    }
    Py_END_ALLOW_THREADS
    /* After a failure it may stand for anything, or be no good at all. */
    if ((*call != NULL && code != SUCCESS) || !pool_give(pool, event)) {
        Py_BEGIN_ALLOW_THREADS
        cuda.event_destroy(pointer(event));
        Py_END_ALLOW_THREADS
    }
    Py_DECREF((PyObject *)pool);
    return code;
}

/* Raise what the plain way raises where the driver has answered *code* to *call*. NULL, as a method returns. */
static PyObject *
failed(PyObject *of, const char *call, int code, PyObject *other)
{
    if (code >= MODE_NOT_RESTORED) {
        call = "cudaThreadExchangeStreamCaptureMode";
        code -= MODE_NOT_RESTORED;
    }
    else if (code >= NOT_RESTORED) {
        call = "cuCtxSetCurrent";
        code -= NOT_RESTORED;
    }
    return PyObject_CallMethod(of, "_failed", "siO", call, code, other);
}

/* In the order in which they are given. As order, but with an exception where the driver has failed. */
static int
order_all(Stream *consumer, PyObject *const *objects, Py_ssize_t count)
{
    Stream **producers = PyMem_Calloc((size_t)count, sizeof *producers);
    Place *places = PyMem_Calloc((size_t)count, sizeof *places);
    Py_ssize_t others = 0;
    int code = producers != NULL && places != NULL ? SUCCESS : UNUSUAL;

    for (Py_ssize_t i = 0; code == SUCCESS && i < count; i++) {
        producers[i] = stream_of(objects[i]);
        if (producers[i] == NULL) {
            code = UNUSUAL;
        }
        else if (!is_same(consumer, producers[i])) {
            code = is_usual(producers[i]) ? SUCCESS : UNUSUAL;
            places[others++] = place_of(producers[i]);
        }
    }
    /* None captures: else the first wait could take the consumer into a capture, and the second one would be against
     * the law, which is to be known before. */
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; code == SUCCESS && i < others; i++) {
        code = captures_nothing(places[i]);
    }
    Py_END_ALLOW_THREADS
    if (code >= NOT_RESTORED) {
        failed((PyObject *)consumer, NULL, code, Py_None);
    }
    for (Py_ssize_t i = 0; code == SUCCESS && i < count; i++) {
        const char *call = NULL;
        code = order(consumer, producers[i], &call);
        if (code != SUCCESS && code != UNUSUAL) {
            failed((PyObject *)consumer, call, code, (PyObject *)producers[i]);
        }
    }
    for (Py_ssize_t i = 0; producers != NULL && i < count; i++) {
        Py_XDECREF((PyObject *)producers[i]);
    }
    PyMem_Free(producers);
    PyMem_Free(places);
    return code;
}

/* SUCCESS, UNUSUAL, or what the driver has answered. */
static int
record(Stream *stream, Event *event)
{
    unsigned long long handle = event->handle;
    Place recorded;
    int code;

    if (handle == 0 || !event->owned || !is_usual(stream) || event->pool != stream->pool) {
        return UNUSUAL;
    }
    recorded = place_of(stream);
    Py_BEGIN_ALLOW_THREADS
    code = captures_nothing(recorded);
    if (code == SUCCESS) {
        code = record_on(recorded, handle);
    }
    Py_END_ALLOW_THREADS
    if (code == SUCCESS) {
        event->recorded = 1;
        event->capture = 0;
    }
    return code;
}

/* A new event that stands for the stream's work; NULL if the plain way is to be gone, or with an exception. */
static PyObject *
record_new(Stream *stream)
{
    Pool *pool;
    PyObject *made;
    Event *event;
    int code;

    if (!is_usual(stream) || (pool = stream->pool)->count == 0) {
        return NULL;
    }
    Py_INCREF((PyObject *)pool);
    made = PyType_GenericAlloc(event_class, 0);
    if (made == NULL) {
        Py_DECREF((PyObject *)pool);
        PyErr_Clear(); /* of memory only: what a collection runs raises nothing */
        return NULL;
    }
    event = (Event *)made;
    event->pool = pool;
    event->handle = pool_take(pool);
    if (event->handle == 0) { /* allocating has set off a collection, which has used it */
        Py_DECREF(made);
        return NULL;
    }
    event->owned = 1;
    Py_XINCREF(stream->cuda);
    event->cuda = stream->cuda;
    Py_INCREF(plain_flags);
    event->flags = plain_flags;
    code = record(stream, event);
    if (code == SUCCESS) {
        return made;
    }
    if (code != UNUSUAL) {
        failed((PyObject *)stream, "cudaEventRecord", code, made);
    }
    Py_DECREF(made);
    return NULL;
}

/* Whether it is a plain event of the real GPU that was recorded, and not while a graph was captured. */
static int
stands_for_work(Event *event)
{
    return event->pool != NULL && event->pool->is_hot && event->recorded && !event->capture;
}

/* The handle of such an event, or 0. */
static unsigned long long
recorded_handle(Event *event)
{
    return stands_for_work(event) ? event->handle : 0;
}

/* Wait for an event that was recorded, as far as is known. As record. */
static int
wait(Stream *stream, unsigned long long handle)
{
    Place waiting;
    int code;

    if (!is_usual(stream)) {
        return UNUSUAL;
    }
    waiting = place_of(stream);
    Py_BEGIN_ALLOW_THREADS
    code = captures_nothing(waiting);
    if (code == SUCCESS) {
        code = wait_on(waiting, handle);
    }
    Py_END_ALLOW_THREADS
    return code;
}

static int
ask_stream(int (*call)(void *), Stream *stream)
{
    Place asked;
    int code;

    if (!is_usual(stream)) {
        return UNUSUAL;
    }
    asked = place_of(stream);
    Py_BEGIN_ALLOW_THREADS
    code = captures_nothing(asked);
    if (code == SUCCESS) {
        code = ask_about(call, asked);
    }
    Py_END_ALLOW_THREADS
    return code;
}

static int
ask_event(int (*call)(void *), Event *event)
{
    unsigned long long handle = event->handle;
    int code = UNUSUAL;

    if (stands_for_work(event) && !watched) {
        Py_BEGIN_ALLOW_THREADS
        code = ask(call, handle);
        Py_END_ALLOW_THREADS
    }
    return code;
}

/* -- the methods --------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *signature;
    PyMethodDef definition;
    PyObject *plain; /* the method, in Python, that this one stands before */
} Method;

static Method as_stream, stream_query, stream_synchronize, stream_record_event, stream_wait_event, stream_wait_stream,
    stream_to, event_query, event_synchronize;

/* The plain way: the same call of the same method in Python. */
static PyObject *
plainly(Method *method, PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names), first = self != NULL;
    PyObject *positional = PyTuple_New(first + count), *keywords = named ? PyDict_New() : NULL, *result = NULL;

    if (positional == NULL || (named && keywords == NULL)) {
        goto done;
    }
    if (self != NULL) {
        Py_INCREF(self);
        PyTuple_SetItem(positional, 0, self);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(positional, first + i, args[i]);
    }
    for (Py_ssize_t i = 0; i < named; i++) {
        if (PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[count + i]) < 0) {
            goto done;
        }
    }
    result = PyObject_Call(method->plain, positional, keywords);
done:
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

#define METHOD(name) static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
#define PLAINLY(method) plainly(&method, self, args, count, names)

METHOD(do_stream_query)
{
    if (count == 0 && names == NULL) {
        int code = ask_stream(cuda.stream_query, (Stream *)self);
        if (code == SUCCESS || code == NOT_READY) {
            return PyBool_FromLong(code == SUCCESS);
        }
        if (code != UNUSUAL) {
            return failed(self, "cudaStreamQuery", code, Py_None);
        }
    }
    return PLAINLY(stream_query);
}

METHOD(do_stream_synchronize)
{
    if (count == 0 && names == NULL) {
        int code = ask_stream(cuda.stream_synchronize, (Stream *)self);
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != UNUSUAL && code != NOT_READY) {
            return failed(self, "cudaStreamSynchronize", code, Py_None);
        }
    }
    return PLAINLY(stream_synchronize);
}

METHOD(do_stream_record_event)
{
    Stream *stream = (Stream *)self;

    if (names == NULL && count == 0) {
        PyObject *made = record_new(stream);
        if (made != NULL || PyErr_Occurred()) {
            return made;
        }
    }
    else if (names == NULL && count == 1 && is_event(args[0])) {
        int code = record(stream, (Event *)args[0]);
        if (code == SUCCESS) {
            Py_INCREF(args[0]);
            return args[0];
        }
        if (code != UNUSUAL) {
            return failed(self, "cudaEventRecord", code, args[0]);
        }
    }
    return PLAINLY(stream_record_event);
}

METHOD(do_stream_wait_event)
{
    if (names == NULL && count == 1) {
        int ours = is_event(args[0]), code;
        unsigned long long handle = ours ? recorded_handle((Event *)args[0]) : foreign_event(args[0]);
        if (!handle && PyErr_Occurred()) {
            return NULL;
        }
        code = handle ? wait((Stream *)self, handle) : UNUSUAL;
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != UNUSUAL) {
            return failed(self, "cudaStreamWaitEvent", code, ours ? args[0] : Py_None);
        }
    }
    return PLAINLY(stream_wait_event);
}

METHOD(do_stream_wait_stream)
{
    int code = UNUSUAL;

    if (names == NULL && count == 1) {
        Stream *producer = stream_of(args[0]);
        if (producer != NULL) {
            const char *call = NULL;
            code = order((Stream *)self, producer, &call);
            if (code != SUCCESS && code != UNUSUAL) {
                failed(self, call, code, (PyObject *)producer);
            }
            Py_DECREF((PyObject *)producer);
        }
    }
    else if (names == NULL) {
        code = order_all((Stream *)self, args, count);
    }
    if (code == SUCCESS) {
        Py_RETURN_NONE;
    }
    return PyErr_Occurred() ? NULL : PLAINLY(stream_wait_stream);
}

METHOD(do_stream_to)
{
    Stream *stream = (Stream *)self;

    if (names == NULL && count == 1 && stream->pool != NULL && !stream->needs && stream->natives != NULL &&
        PyDict_Check(stream->natives) && PyUnicode_CheckExact(args[0])) {
        PyObject *natives = stream->natives, *native;
        Py_INCREF(natives); /* a name in it may run anything when it is compared */
        native = PyDict_GetItemWithError(natives, args[0]);
        Py_XINCREF(native);
        Py_DECREF(natives);
        if (native != NULL || PyErr_Occurred()) {
            return native;
        }
    }
    return PLAINLY(stream_to);
}

METHOD(do_event_query)
{
    if (count == 0 && names == NULL) {
        int code = ask_event(cuda.event_query, (Event *)self);
        if (code == SUCCESS || code == NOT_READY) {
            return PyBool_FromLong(code == SUCCESS);
        }
        if (code != UNUSUAL) {
            return failed(self, "cudaEventQuery", code, Py_None);
        }
    }
    return PLAINLY(event_query);
}

METHOD(do_event_synchronize)
{
    if (count == 0 && names == NULL) {
        int code = ask_event(cuda.event_synchronize, (Event *)self);
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != UNUSUAL && code != NOT_READY) {
            return failed(self, "cudaEventSynchronize", code, Py_None);
        }
    }
    return PLAINLY(event_synchronize);
}

/* Another library's object that was borrowed before: the same stream once more, with the object as its owner. */
METHOD(do_as_stream)
{
    Stream *known, *made;

    self = NULL; /* the module */
    if (names == NULL && count == 1) {
        known = stream_of(args[0]);
        if (known != NULL && (PyObject *)known == args[0]) {
            return args[0];
        }
        if (known != NULL) {
            made = (Stream *)PyType_GenericAlloc(Py_TYPE((PyObject *)known), 0);
            if (made != NULL) {
                made->handle = known->handle;
                made->context = known->context;
                made->context_id = known->context_id;
                made->needs = known->needs;
#define SHARE(member) \
    Py_XINCREF((PyObject *)known->member); \
    made->member = known->member;
                SHARE(pool) SHARE(adapter) SHARE(cuda) SHARE(device) SHARE(id) SHARE(priority)
                Py_INCREF(args[0]);
                made->owner = args[0];
            }
            Py_DECREF(known);
            return (PyObject *)made;
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    return PLAINLY(as_stream);
}

#define FAST(name, signature, function) \
    static Method name = {#signature "\n--\n\n", {NULL, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, NULL}, NULL};

FAST(as_stream, as_stream(obj, device=None), do_as_stream)
FAST(stream_query, query($self), do_stream_query)
FAST(stream_synchronize, synchronize($self, timeout=None), do_stream_synchronize)
FAST(stream_record_event, record_event($self, event=None), do_stream_record_event)
FAST(stream_wait_event, wait_event($self, event), do_stream_wait_event)
FAST(stream_wait_stream, wait_stream($self, *streams), do_stream_wait_stream)
FAST(stream_to, to($self, library), do_stream_to)
FAST(event_query, query($self), do_event_query)
FAST(event_synchronize, synchronize($self, timeout=None), do_event_synchronize)

static struct {
    const char *name;
    Method *method;
} of_streams[] = {
    {"query", &stream_query},
    {"synchronize", &stream_synchronize},
    {"record_event", &stream_record_event},
    {"wait_event", &stream_wait_event},
    {"wait_stream", &stream_wait_stream},
    {"to", &stream_to},
}, of_events[] = {
    {"query", &event_query},
    {"synchronize", &event_synchronize},
};

/* Stand before a function in Python: from now on its name, text and place are ours. */
static int
stand_before(Method *method, const char *name, PyObject *plain)
{
    PyObject *text = PyObject_GetAttrString(plain, "__doc__");
    const char *utf8 = text == NULL || text == Py_None ? "" : PyUnicode_AsUTF8AndSize(text, NULL);
    char *copy = NULL;

    if (text != NULL && utf8 != NULL) {
        copy = malloc(strlen(method->signature) + strlen(utf8) + 1);
    }
    if (copy == NULL) {
        Py_XDECREF(text);
        if (!PyErr_Occurred()) {
            PyErr_NoMemory();
        }
        return -1;
    }
    strcpy(copy, method->signature);
    strcat(copy, utf8);
    Py_DECREF(text);
    method->definition.ml_name = name;
    method->definition.ml_doc = copy;
    Py_INCREF(plain);
    method->plain = plain;
    return 0;
}

static int
accelerate_method(PyObject *class, const char *name, Method *method)
{
    PyObject *plain = PyObject_GetAttrString(class, name), *descriptor = NULL;
    int failed = plain == NULL || stand_before(method, name, plain);

    if (!failed) {
        descriptor = PyDescr_NewMethod((PyTypeObject *)class, &method->definition);
        failed = descriptor == NULL || PyObject_SetAttrString(class, name, descriptor);
    }
    Py_XDECREF(plain);
    Py_XDECREF(descriptor);
    return failed ? -1 : 0;
}

/* A function that stands before one in Python, and says that it is of the same module. */
static PyObject *
fast_function(PyObject *module, Method *method, const char *name, PyObject *plain)
{
    PyObject *place = PyObject_GetAttrString(plain, "__module__"), *fast = NULL;

    if (place != NULL && !stand_before(method, name, plain)) {
        fast = PyCFunction_NewEx(&method->definition, module, place);
    }
    Py_XDECREF(place);
    return fast;
}

PyDoc_STRVAR(accelerate_doc,
"accelerate(stream_class, event_class, as_stream, known, closing, objects, by_type, flags, refuse_stream,\n"
"           refuse_event, /)\n"
"--\n\n"
"Put the fast methods before those of the classes, and return the fast one that stands before *as_stream*.\n\n"
"Args:\n"
"    stream_class, event_class: subclasses of StreamFields and EventFields.\n"
"    as_stream: the function.\n"
"    known: by the identity of another library's object, the stream that it is, without an owner.\n"
"    closing: likewise of objects that can be closed, and are asked each time whether they have the handle still.\n"
"    objects: by the identity, a weak reference that takes it out of both when the object is gone.\n"
"    by_type: by a class, the adapters of the libraries that it comes from, if they were looked for.\n"
"    flags: those of an event without timing.\n"
"    refuse_stream, refuse_event: raise that an object could not be asked; given its adapter, or None, and the error.");

static PyObject *
accelerate(PyObject *module, PyObject *arguments)
{
    PyObject *streams, *events, *function, *known, *closing, *objects, *by_type, *flags, *no_stream, *no_event;

    if (!PyArg_ParseTuple(arguments, "O!O!OO!O!O!O!OOO:accelerate", &PyType_Type, &streams, &PyType_Type, &events,
                          &function, &PyDict_Type, &known, &PyDict_Type, &closing, &PyDict_Type, &objects,
                          &PyDict_Type, &by_type, &flags, &no_stream, &no_event)) {
        return NULL;
    }
    if (!PyType_IsSubtype((PyTypeObject *)streams, stream_type) ||
        !PyType_IsSubtype((PyTypeObject *)events, event_type)) {
        PyErr_SetString(PyExc_TypeError, "expected subclasses of StreamFields and EventFields");
        return NULL;
    }
    Py_INCREF(streams);
    stream_class = (PyTypeObject *)streams;
    Py_INCREF(events);
    event_class = (PyTypeObject *)events;
    if ((stated_by = PyUnicode_InternFromString("__cuda_stream__")) == NULL ||
        (simulated = PyUnicode_InternFromString("simulated")) == NULL ||
        (stays = PyUnicode_InternFromString("streams_stay_the_same")) == NULL ||
        (closes = PyUnicode_InternFromString("streams_close")) == NULL ||
        (life = PyUnicode_InternFromString("life")) == NULL ||
        (asked = PyUnicode_InternFromString("stream_handle")) == NULL ||
        (placed = PyUnicode_InternFromString("stream_device")) == NULL ||
        (marked = PyUnicode_InternFromString("event_handle")) == NULL ||
        (living = PyUnicode_InternFromString("_interop_life")) == NULL) {
        return NULL;
    }
    hold(&foreign, known);
    hold(&closable, closing);
    hold(&lives, objects);
    hold(&adapters, by_type);
    hold(&plain_flags, flags);
    hold(&refuse_stream, no_stream);
    hold(&refuse_event, no_event);
    for (size_t i = 0; i < sizeof of_streams / sizeof *of_streams; i++) {
        if (accelerate_method(streams, of_streams[i].name, of_streams[i].method)) {
            return NULL;
        }
    }
    for (size_t i = 0; i < sizeof of_events / sizeof *of_events; i++) {
        if (accelerate_method(events, of_events[i].name, of_events[i].method)) {
            return NULL;
        }
    }
    return fast_function(module, &as_stream, "as_stream", function);
}

PyDoc_STRVAR(create_events_doc,
"create_events(count, flags, /)\n"
"--\n\n"
"A list of new events of the current context; fewer than *count* if the driver says anything but success.");

static PyObject *
create_events(PyObject *module, PyObject *arguments)
{
    Py_ssize_t count;
    unsigned int flags;
    PyObject *list;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "nI:create_events", &count, &flags) || !is_bound() ||
        (list = PyList_New(0)) == NULL) {
        return NULL;
    }
    while (count-- > 0) {
        void *event;
        PyObject *handle;
        int code, failed;
        Py_BEGIN_ALLOW_THREADS
        code = cuda.event_create(&event, flags);
        Py_END_ALLOW_THREADS
        if (code != SUCCESS) {
            break;
        }
        handle = PyLong_FromVoidPtr(event);
        failed = handle == NULL || PyList_Append(list, handle);
        Py_XDECREF(handle);
        if (failed) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyDoc_STRVAR(record_handle_doc,
"record_handle(stream, event, /)\n"
"--\n\n"
"Record a stream's work so far in an event of its context, given by its handle; nobody is told. If the driver fails, what\n"
"that means is raised.\n\n"
"Returns:\n"
"    False, and the plain way is to be gone, if the stream captures, or cannot be asked as it is.");

static PyObject *
record_handle(PyObject *module, PyObject *arguments)
{
    PyObject *stream, *number;
    unsigned long long event;
    int code = UNUSUAL;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!:record_handle", stream_type, &stream, &PyLong_Type, &number)) {
        return NULL;
    }
    event = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (((Stream *)stream)->pool != NULL) {
        Place recorded = place_of((Stream *)stream);
        Py_BEGIN_ALLOW_THREADS
        code = captures_nothing(recorded);
        if (code == SUCCESS) {
            code = record_on(recorded, event);
        }
        Py_END_ALLOW_THREADS
    }
    if (code != SUCCESS && code != UNUSUAL) {
        return failed(stream, "cudaEventRecord", code, Py_None);
    }
    return PyBool_FromLong(code == SUCCESS);
}

PyDoc_STRVAR(readable_doc,
"readable(address, /)\n"
"--\n\n"
"Whether this process can read the eight bytes at an address; True where that cannot be found out.");

static PyObject *
readable(PyObject *module, PyObject *address)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(address);

    (void)module;
    return PyErr_Occurred() ? NULL : PyBool_FromLong(can_be_read(number));
}

/* -- the module --------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"accelerate", accelerate, METH_VARARGS, accelerate_doc},
    {"activate", activate, METH_O, activate_doc},
    {"bind", bind, METH_VARARGS, bind_doc},
    {"create_events", create_events, METH_VARARGS, create_events_doc},
    {"dlpack_capsule", dlpack_capsule, METH_VARARGS, dlpack_capsule_doc},
    {"readable", readable, METH_O, readable_doc},
    {"record_handle", record_handle, METH_VARARGS, record_handle_doc},
    {"switch_context", switch_context, METH_O, switch_context_doc},
    {"watch", watch, METH_O, watch_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

/* Once in a process: what is static here is then the main interpreter's. */
static int
execute(PyObject *module)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0 || stream_type != NULL) {
        PyErr_SetString(PyExc_ImportError, "interop._native works once, and in the main interpreter only");
        return -1;
    }
    return add_type(module, &pool_spec, &pool_type) || add_type(module, &event_spec, &event_type) ||
                   add_type(module, &stream_spec, &stream_type)
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "interop._native",
    .m_doc = "The parts of interop that are written in C.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
