/* What the files of the extension share.
 *
 * The extension holds what Python cannot do, or cannot do fast enough. It is built on CPython's stable ABI (3.11) and
 * needs no header of CUDA's or DLPack's. Without it the package works all the same, in Python, except that it can
 * neither give nor take arrays by DLPack.
 *
 * One subject a file:
 *   module.c    the module and its functions
 *   dlpack.c    DLPack's tensors and capsules
 *   exchange.c  the exchange of tensors in C
 *   driver.c    the driver's entry points, and which driver is bound
 *   objects.c   the types: Pool, StreamFields, EventFields
 *   open.c      the hand-overs that are open, by where their memory lies
 *   handover.c  the type HandoverFields: the holder of an array that was handed over, and what its end does
 *   keepalive.c what is kept until the device is done with it
 *   calls.c     the driver's calls, each in the context that it needs, without the GIL
 *   order.c     the CUDA calls: record, wait, query, synchronize
 *   known.c     the streams and events of other libraries
 *   fallback.c  calls of the Python code
 *   recorder.c  a record of every driver call of the process (recorder.h), with decode.c and frames.c
 *   methods.c   the fast methods; how C and Python share a class is explained there
 *
 * All static variables belong to the main interpreter: the module refuses to be imported by another one.
 */

#ifndef INTEROP_NATIVE_H
#define INTEROP_NATIVE_H

#define _GNU_SOURCE /* syscall */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

/* -- driver.c -------------------------------------------------------------------------------------------------------- */

enum { SUCCESS = 0, NOT_READY = 600 }; /* answers of the driver */
/* In place of an answer: the fast path does not cover this case. Python may repeat all that was done so far. */
enum { FALL_BACK = -1 };
/* Added to an answer: the context, or the capture mode, that was current before could not be restored. */
enum { NOT_RESTORED = 1 << 20, MODE_NOT_RESTORED = 1 << 21 };
enum { NOT_CAPTURING = 0, RELAXED = 2 };
enum { DISABLE_TIMING = 2 }; /* the flag of an event */
enum { LEGACY = 1, PER_THREAD = 2 }; /* the handles of the default streams, which are no addresses */

/* The driver's functions that are called from here, in the order of HOT_CALLS; NULL before a driver is bound. */
typedef struct {
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
    int (*stream_get_context)(void *, void **);
    int (*context_get_id)(void *, unsigned long long *);
    int (*event_create)(void **, unsigned int);
} Driver;

extern Driver driver;
extern PyObject *bound;  /* the Cuda object of the driver that is bound; NULL before */
extern PyObject *active; /* the Cuda object that new streams are made under: the same one, or a simulation's */
extern PyObject *pools;  /* the dict of the bound driver's pools, by the id of the context */
extern int watched;      /* whether watchers are to be told of every call; Python tells them */

static inline void *
pointer(unsigned long long handle)
{
    return (void *)(uintptr_t)handle;
}

int can_be_read(unsigned long long address);
void keep(PyObject **place, PyObject *object);
PyObject *attribute(PyObject *object, PyObject **name, const char *text);

/* -- objects.c ------------------------------------------------------------------------------------------------------- */

enum { MOST_SPARE = 256 }; /* as _MOST_SPARE in plain.py */

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;
    unsigned long long events[MOST_SPARE];
} Pool;

typedef struct {
    PyObject_HEAD
    unsigned long long handle;
    unsigned long long context;
    unsigned long long context_id;
    Pool *pool; /* the pool of the context. If it is not NULL, the fast path may be taken: see locate() */
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
    unsigned long long context;
    unsigned long long capture;
    char recorded;
    char handle_was_shared;
    Pool *pool; /* the pool that takes the CUDA event in the end. If it is not NULL, the event has no timing */
    PyObject *adapter;
    PyObject *cuda;
    PyObject *device;
    PyObject *flags; /* None if the event is borrowed: then its owner destroys it */
    PyObject *owner;
} Event;

extern PyTypeObject *pool_type, *stream_type, *event_type; /* Pool, StreamFields, EventFields */
extern PyTypeObject *stream_class, *event_class;           /* interop.ExternalStream and interop.Event, subclasses */

unsigned long long pool_take(Pool *pool);
int pool_give(Pool *pool, unsigned long long event);
void discard_event(PyObject *cuda, unsigned long long event);
int add_types(PyObject *module);
int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type);
void free_object(PyObject *self);

/* Most objects are of the class itself, which is a faster test than the one for subclasses. */
static inline int
is_stream(PyObject *object)
{
    return Py_TYPE(object) == stream_class || PyObject_TypeCheck(object, stream_type);
}

static inline int
is_event(PyObject *object)
{
    return Py_TYPE(object) == event_class || PyObject_TypeCheck(object, event_type);
}

/* The context that must be current while the driver is called about a stream; 0 if any may be. The handles of default
 * streams mean a stream of the current context, every other handle knows its own. */
static inline unsigned long long
needs_of(Stream *stream)
{
    return stream->handle <= PER_THREAD ? stream->context : 0;
}

/* -- calls.c --------------------------------------------------------------------------------------------------------- */

/* What the driver needs to know of a stream. */
typedef struct {
    unsigned long long handle, needs, context;
} Place;

static inline Place
place_of(Stream *stream)
{
    Place place = {stream->handle, needs_of(stream), stream->context};

    return place;
}

int captures_nothing(Place stream);
int record_then_wait(const Place *recorded, const Place *waiting, unsigned long long *event, int ask, const char **call);
int ask(int (*call)(void *), unsigned long long handle);
int ask_on(Place stream, int (*call)(void *));

/* -- order.c --------------------------------------------------------------------------------------------------------- */

/* Each returns SUCCESS, FALL_BACK, or what the driver has answered. */
int order_all(Stream *consumer, Stream **producers, Py_ssize_t count);
int record(Stream *stream, Event *event);
int wait_for(Stream *stream, unsigned long long event);
int ask_stream(int (*call)(void *), Stream *stream);
int ask_event(int (*call)(void *), Event *event);
int record_and_wait(Stream *stream, Stream *producer, unsigned long long *event);

int is_ready(Stream *stream);
int is_same_stream(Stream *one, Stream *other);
PyObject *record_new(Stream *stream);
unsigned long long recorded_handle(Event *event);

/* -- known.c --------------------------------------------------------------------------------------------------------- */

Stream *known_stream(PyObject *object);
unsigned long long foreign_event(PyObject *object);
int set_tables(PyObject *streams, PyObject *by_type);

/* -- open.c, handover.c, keepalive.c -------------------------------------------------------------------------------- */

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
    Holder *holder; /* NULL after the end */
    PyObject *consumer;
    PyObject *root; /* NULL after the end */
} Link;

struct Holder {
    PyObject_HEAD
    PyObject *tensor;
    PyObject *producer;
    PyObject *consumer;
    PyObject *relay;
    PyObject *root;     /* the first source of the memory, if the source came from another hand-over; else NULL */
    PyObject *returned; /* the event that stands for the consumer's work, if the way back is ordered already; else NULL */
    Link *link;         /* NULL until somebody asks */
    Link *parent;       /* the link of the hand-over that the source came from; else NULL */
    Spot places[2];
    unsigned long long start, stop, number;
    unsigned long long mark; /* identifies the array that was made, and views of it; 0 if it has none */
    void *view; /* DLPack's shape and strides, if they were asked for; else NULL */
    Place recorded, waiting;  /* the consumer and the producer. Handle 0: the end needs the GIL; or no stream waits */
    unsigned long long event; /* for the end; 0 if the pool had none */
    Holder *below;            /* the next in the stack of holders that ended without the GIL */
    char is_ordered;          /* whether it ended without the GIL: the way back is ordered, and the event recorded */
    char is_neutral;
    char closes; /* whether a stream can be closed: it is asked before its handle is used */
};

extern PyTypeObject *link_type, *holder_type;
extern int has_ended; /* whether the interpreter has ended: from then on nothing is freed */

void add_to_table(Holder *holder);
void remove_from_table(Holder *holder);
PyObject *link_of(Holder *holder);
int read_extent(PyObject *tensor, unsigned long long *start, unsigned long long *stop);
int add_link_type(PyObject *module);
int add_handover_types(PyObject *module);
int keep_after(Stream *stream, Stream *producer, PyObject *memory);
int keep_until(Stream *stream, Event *event, PyObject *memory);
int keep_until_event(Stream *stream, unsigned long long event, PyObject *memory);
int end_without_gil(PyObject *object);
void take_ended(void);
void forget_ended(void);

/* -- dlpack.c, exchange.c -------------------------------------------------------------------------------------------- */

enum { READ_ONLY = 1 << 0 }; /* a flag */
enum { MOST_DIMENSIONS = 64 };

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
} DLTensor;

typedef struct DLManagedTensor {
    DLTensor tensor;
    void *owner;
    void (*deleter)(struct DLManagedTensor *);
} DLManagedTensor;

/* All but the tensor stays where it is in every version. */
typedef struct DLManagedTensorVersioned {
    uint32_t major;
    uint32_t minor;
    void *owner;
    void (*deleter)(struct DLManagedTensorVersioned *);
    uint64_t flags;
    DLTensor tensor;
} DLManagedTensorVersioned;

void *describe(PyObject *tensor, size_t head, DLTensor *described, int *read_only);
DLManagedTensorVersioned *give(PyObject *tensor, PyObject *owner);
void delete_versioned(DLManagedTensorVersioned *managed);
PyObject *tensor_of(const DLTensor *tensor, int read_only, PyObject *owner);
int add_taken_type(PyObject *module);

/* -- fallback.c ------------------------------------------------------------------------------------------------------ */

PyObject *call_python(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *failed(PyObject *of, const char *call, int code, PyObject *other);

/* -- the functions of the module ------------------------------------------------------------------------------------- */

extern PyMethodDef driver_functions[], dlpack_functions[], exchange_functions[], methods_functions[], open_functions[],
    handover_functions[], keepalive_functions[], order_functions[], recorder_functions[], frames_functions[];
int add_exchange_api(PyObject *module);

#endif
