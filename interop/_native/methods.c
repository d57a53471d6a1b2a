/* The fast methods, and how C and Python share a class.
 *
 * interop.ExternalStream has three layers, and so has interop.Event:
 *
 *   1. StreamFields (objects.c) is the base class. It holds the fields, which C reads as members of a struct.
 *   2. ExternalStream (_core/stream.py) is a class in Python, a subclass of StreamFields. Its methods do everything, and are
 *      all that there is without the extension.
 *   3. The fast methods, below, replace a few methods of ExternalStream once the class exists: accelerate() puts them
 *      into the class, with the names and docstrings of those that they replace. A fast method covers the common case.
 *      For everything else it calls the method in Python that it has replaced, with the same arguments.
 *
 * So Python has every rule and every error message, and the results are the same with the extension and without it.
 */

#include "native.h"

#include <stdlib.h>
#include <string.h>

PyTypeObject *stream_class, *event_class;

static PyObject *plain_flags; /* of an event without timing */

typedef struct {
    const char *name;
    const char *signature;
    PyMethodDef definition;
    PyObject *fast;   /* what replaces the method: a descriptor, or a function */
    PyObject *python; /* the method in Python that was replaced */
} Method;

#define FAST(variable, name, signature) \
    static PyObject *do_##variable(PyObject *, PyObject *const *, Py_ssize_t, PyObject *); \
    static Method variable = {name, \
                              name signature "\n--\n\n", \
                              {name, (PyCFunction)(void (*)(void))do_##variable, METH_FASTCALL | METH_KEYWORDS, NULL}, \
                              NULL, \
                              NULL};

FAST(as_stream, "as_stream", "(obj, device=None)")
FAST(stream_query, "query", "($self)")
FAST(stream_synchronize, "synchronize", "($self, timeout=None)")
FAST(stream_record_event, "record_event", "($self, event=None)")
FAST(stream_wait_event, "wait_event", "($self, event)")
FAST(stream_wait_stream, "wait_stream", "($self, *streams)")
FAST(stream_to, "to", "($self, library)")
FAST(event_query, "query", "($self)")
FAST(event_synchronize, "synchronize", "($self, timeout=None)")

static Method *of_streams[] = {&stream_query,      &stream_synchronize, &stream_record_event,
                               &stream_wait_event, &stream_wait_stream, &stream_to};
static Method *of_events[] = {&event_query, &event_synchronize};

#define METHOD(variable) \
    static PyObject *do_##variable(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
#define CALL_PYTHON(method) call_python(method.python, self, args, count, names)

METHOD(stream_query)
{
    if (count == 0 && names == NULL) {
        int code = ask_stream(driver.stream_query, (Stream *)self);
        if (code == SUCCESS || code == NOT_READY) {
            return PyBool_FromLong(code == SUCCESS);
        }
        if (code != FALL_BACK) {
            return failed(self, "cudaStreamQuery", code, Py_None);
        }
    }
    return CALL_PYTHON(stream_query);
}

METHOD(stream_synchronize)
{
    if (count == 0 && names == NULL) {
        int code = ask_stream(driver.stream_synchronize, (Stream *)self);
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != FALL_BACK && code != NOT_READY) {
            return failed(self, "cudaStreamSynchronize", code, Py_None);
        }
    }
    return CALL_PYTHON(stream_synchronize);
}

METHOD(stream_record_event)
{
    Stream *stream = (Stream *)self;

    if (names == NULL && count == 0) {
        PyObject *made = record_new(stream, plain_flags);
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
        if (code != FALL_BACK) {
            return failed(self, "cudaEventRecord", code, args[0]);
        }
    }
    return CALL_PYTHON(stream_record_event);
}

METHOD(stream_wait_event)
{
    if (names == NULL && count == 1) {
        int ours = is_event(args[0]), code;
        unsigned long long handle = ours ? recorded_handle((Event *)args[0]) : foreign_event(args[0]);
        if (!handle && PyErr_Occurred()) {
            return NULL;
        }
        code = handle ? wait_for((Stream *)self, handle) : FALL_BACK;
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != FALL_BACK) {
            return failed(self, "cudaStreamWaitEvent", code, ours ? args[0] : Py_None);
        }
    }
    return CALL_PYTHON(stream_wait_event);
}

/* A new reference to the stream that an object is; NULL with an exception. It may have no owner. */
static Stream *
stream_of(PyObject *object)
{
    Stream *stream;

    if (is_stream(object)) {
        Py_INCREF(object);
        return (Stream *)object;
    }
    stream = known_stream(object);
    if (stream == NULL && !PyErr_Occurred()) {
        stream = (Stream *)PyObject_CallFunctionObjArgs(as_stream.python, object, NULL);
    }
    return stream;
}

METHOD(stream_wait_stream)
{
    Stream *producer = NULL, **producers = &producer;
    PyObject *result = NULL;
    Py_ssize_t found = 0;

    if (names != NULL || watched) { /* watchers are told of the streams with their owners */
        return CALL_PYTHON(stream_wait_stream);
    }
    if (count > 1 && (producers = PyMem_Calloc((size_t)count, sizeof *producers)) == NULL) {
        return PyErr_NoMemory();
    }
    while (found < count && (producers[found] = stream_of(args[found])) != NULL) {
        found++;
    }
    if (found == count) {
        int code = order_all((Stream *)self, producers, count);
        if (code == SUCCESS) {
            Py_INCREF(Py_None);
            result = Py_None;
        }
        else if (code == FALL_BACK) { /* with the streams: no object is asked twice what it is */
            result = call_python(stream_wait_stream.python, self, (PyObject *const *)producers, count, NULL);
        }
    }
    while (found > 0) {
        Py_DECREF((PyObject *)producers[--found]);
    }
    if (producers != &producer) {
        PyMem_Free(producers);
    }
    return result;
}

METHOD(stream_to)
{
    Stream *stream = (Stream *)self;

    if (names == NULL && count == 1 && stream->pool != NULL && !needs_of(stream) && stream->natives != NULL &&
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
    return CALL_PYTHON(stream_to);
}

METHOD(event_query)
{
    if (count == 0 && names == NULL) {
        int code = ask_event(driver.event_query, (Event *)self);
        if (code == SUCCESS || code == NOT_READY) {
            return PyBool_FromLong(code == SUCCESS);
        }
        if (code != FALL_BACK) {
            return failed(self, "cudaEventQuery", code, Py_None);
        }
    }
    return CALL_PYTHON(event_query);
}

METHOD(event_synchronize)
{
    if (count == 0 && names == NULL) {
        int code = ask_event(driver.event_synchronize, (Event *)self);
        if (code == SUCCESS) {
            Py_RETURN_NONE;
        }
        if (code != FALL_BACK && code != NOT_READY) {
            return failed(self, "cudaEventSynchronize", code, Py_None);
        }
    }
    return CALL_PYTHON(event_synchronize);
}

/* An object of another library that is known: the same stream once more, with the object as its owner. */
METHOD(as_stream)
{
    Stream *known, *made;

    self = NULL; /* it is the module */
    if (names == NULL && count == 1) {
        if (is_stream(args[0])) {
            Py_INCREF(args[0]);
            return args[0];
        }
        known = known_stream(args[0]);
        if (known != NULL) {
            made = (Stream *)PyType_GenericAlloc(Py_TYPE((PyObject *)known), 0);
            if (made != NULL) {
                made->handle = known->handle;
                made->context = known->context;
                made->context_id = known->context_id;
#define SHARE(member) \
    Py_XINCREF((PyObject *)known->member); \
    made->member = known->member;
                SHARE(pool) SHARE(adapter) SHARE(cuda) SHARE(device) SHARE(id) SHARE(priority)
                Py_INCREF(args[0]);
                made->owner = args[0];
            }
            Py_DECREF((PyObject *)known);
            return (PyObject *)made;
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    return CALL_PYTHON(as_stream);
}

/* Note which function in Python a fast one replaces, and take over its docstring. */
static int
wrap_python(Method *method, PyObject *python)
{
    PyObject *text = PyObject_GetAttrString(python, "__doc__");
    const char *utf8 = text == NULL || text == Py_None ? "" : PyUnicode_AsUTF8AndSize(text, NULL);
    char *copy = NULL;

    if (text != NULL && utf8 != NULL && (copy = malloc(strlen(method->signature) + strlen(utf8) + 1)) == NULL) {
        PyErr_NoMemory();
    }
    if (copy != NULL) {
        strcpy(copy, method->signature);
        strcat(copy, utf8);
        method->definition.ml_doc = copy; /* for the rest of the process */
        keep(&method->python, python);
    }
    Py_XDECREF(text);
    return copy == NULL ? -1 : 0;
}

/* Replace a method of a class, unless that is done. */
static int
accelerate_method(PyObject *class, Method *method)
{
    PyObject *python = PyObject_GetAttrString(class, method->name), *fast = NULL;
    int is_done = python != NULL && python == method->fast;

    if (python != NULL && !is_done && !wrap_python(method, python) &&
        (fast = PyDescr_NewMethod((PyTypeObject *)class, &method->definition)) != NULL) {
        keep(&method->fast, fast);
        is_done = !PyObject_SetAttrString(class, method->name, fast);
    }
    Py_XDECREF(python);
    Py_XDECREF(fast);
    return is_done ? 0 : -1;
}

/* The function that replaces one of a module in Python; the same if that is given. */
static PyObject *
fast_function(PyObject *module, Method *method, PyObject *python)
{
    PyObject *place, *fast = NULL;

    if (python == method->fast) {
        Py_INCREF(python);
        return python;
    }
    place = PyObject_GetAttrString(python, "__module__");
    if (place != NULL && !wrap_python(method, python) &&
        (fast = PyCFunction_NewEx(&method->definition, module, place)) != NULL) {
        keep(&method->fast, fast);
    }
    Py_XDECREF(place);
    return fast;
}

PyDoc_STRVAR(accelerate_doc,
"accelerate(stream_class, event_class, as_stream, known, by_type, flags, refuse_event, /)\n"
"--\n\n"
"Put the fast methods into the classes, and return the fast function that replaces *as_stream*. To call it again with\n"
"what is fast already changes nothing.\n\n"
"Args:\n"
"    stream_class, event_class: subclasses of StreamFields and EventFields.\n"
"    as_stream: the function.\n"
"    known: by the identity of another library's object, the stream that it is, without an owner.\n"
"    by_type: by a class, the adapters of the libraries that it comes from, if they were looked for.\n"
"    flags: those of an event without timing.\n"
"    refuse_event: called with an event of another library and the error that its adapter has raised; raises that.");

static PyObject *
accelerate(PyObject *module, PyObject *arguments)
{
    PyObject *streams, *events, *function, *known, *by_type, *flags, *refuse;

    if (!PyArg_ParseTuple(arguments, "O!O!OO!O!OO:accelerate", &PyType_Type, &streams, &PyType_Type, &events, &function,
                          &PyDict_Type, &known, &PyDict_Type, &by_type, &flags, &refuse)) {
        return NULL;
    }
    if (!PyType_IsSubtype((PyTypeObject *)streams, stream_type) ||
        !PyType_IsSubtype((PyTypeObject *)events, event_type)) {
        PyErr_SetString(PyExc_TypeError, "expected subclasses of StreamFields and EventFields");
        return NULL;
    }
    keep((PyObject **)&stream_class, streams);
    keep((PyObject **)&event_class, events);
    keep(&plain_flags, flags);
    if (set_tables(known, by_type, refuse)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof of_streams / sizeof *of_streams; i++) {
        if (accelerate_method(streams, of_streams[i])) {
            return NULL;
        }
    }
    for (size_t i = 0; i < sizeof of_events / sizeof *of_events; i++) {
        if (accelerate_method(events, of_events[i])) {
            return NULL;
        }
    }
    return fast_function(module, &as_stream, function);
}

PyMethodDef methods_functions[] = {
    {"accelerate", accelerate, METH_VARARGS, accelerate_doc},
    {NULL, NULL, 0, NULL},
};
