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

PyTypeObject *stream_class, *event_class;

typedef struct {
    const char *signature;
    PyMethodDef definition;
    PyObject *python; /* the function in Python that was replaced */
    PyObject *fast;   /* what has replaced it */
} Method;

#define FAST(variable, name, signature) \
    static PyObject *do_##variable(PyObject *, PyObject *const *, Py_ssize_t, PyObject *); \
    static Method variable = { \
        signature, {name, (PyCFunction)(void (*)(void))do_##variable, METH_FASTCALL | METH_KEYWORDS, NULL}, NULL, NULL};

FAST(as_stream, "as_stream", "(obj, device=None, *, name=None)")
FAST(stream_query, "query", "($self)")
FAST(stream_synchronize, "synchronize", "($self, timeout=None)")
FAST(stream_record_event, "record_event", "($self, event=None, *, external=False)")
FAST(stream_wait_event, "wait_event", "($self, event, *, external=False)")
FAST(stream_wait_stream, "wait_stream", "($self, *streams)")
FAST(stream_to, "to", "($self, library)")
FAST(event_query, "query", "($self)")
FAST(event_synchronize, "synchronize", "($self, timeout=None)")

static Method *of_module[] = {&as_stream, NULL};
static Method *of_streams[] = {&stream_query,       &stream_synchronize, &stream_record_event, &stream_wait_event,
                               &stream_wait_stream, &stream_to,          NULL};
static Method *of_events[] = {&event_query, &event_synchronize, NULL};

#define METHOD(variable) \
    static PyObject *do_##variable(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
#define CALL_PYTHON(method) call_python(method.python, self, args, count, names)

/* A method that asks the driver once: a query returns a bool, synchronize None. */
#define ASKING(variable, is_query, name, answer) \
    METHOD(variable) \
    { \
        int code = count == 0 && names == NULL ? (answer) : FALL_BACK; \
        if (code == FALL_BACK || (code == NOT_READY && !is_query)) { \
            return CALL_PYTHON(variable); \
        } \
        if (code != SUCCESS && code != NOT_READY) { \
            return failed(self, name, code, Py_None); \
        } \
        return is_query ? PyBool_FromLong(code == SUCCESS) : Py_NewRef(Py_None); \
    }

ASKING(stream_query, 1, "cudaStreamQuery", ask_stream(driver.stream_query, (Stream *)self))
ASKING(stream_synchronize, 0, "cudaStreamSynchronize", ask_stream(driver.stream_synchronize, (Stream *)self))
ASKING(event_query, 1, "cudaEventQuery", ask_event(driver.event_query, (Event *)self))
ASKING(event_synchronize, 0, "cudaEventSynchronize", ask_event(driver.event_synchronize, (Event *)self))

METHOD(stream_record_event)
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
        else if (code == FALL_BACK) { /* pass the streams that were found, so that no object is asked twice */
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
        Py_INCREF(natives); /* comparing a keyword may run Python code */
        native = PyDict_GetItemWithError(natives, args[0]);
        Py_XINCREF(native);
        Py_DECREF(natives);
        if (native != NULL || PyErr_Occurred()) {
            return native;
        }
    }
    return CALL_PYTHON(stream_to);
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

/* Replace the methods of a class, or the functions of a module, which keep their docstrings. What is in place stays. */
static int
replace(PyObject *owner, Method **methods)
{
    PyObject *module = PyType_Check(owner) ? NULL : PyModule_GetNameObject(owner);
    int code = module == NULL && PyErr_Occurred() ? -1 : 0;

    for (; code == 0 && *methods != NULL; methods++) {
        Method *method = *methods;
        PyMethodDef *definition = &method->definition;
        PyObject *python = PyObject_GetAttrString(owner, definition->ml_name), *fast = NULL, *text;

        if (python != NULL && python == method->fast) { /* importlib.reload of interop.stream comes here again */
            Py_DECREF(python);
            continue;
        }
        text = python == NULL ? NULL : PyObject_GetAttrString(python, "__doc__");
        if (text != NULL) {
            text = PyUnicode_FromFormat("%s%s\n--\n\n%S", definition->ml_name, method->signature, text);
        }
        if (text != NULL && (definition->ml_doc = PyUnicode_AsUTF8AndSize(text, NULL)) != NULL) {
            fast = module == NULL ? PyDescr_NewMethod((PyTypeObject *)owner, definition)
                                  : PyCFunction_NewEx(definition, NULL, module);
        }
        method->python = python;
        method->fast = fast;
        code = fast == NULL ? -1 : PyObject_SetAttrString(owner, definition->ml_name, fast);
    }
    Py_XDECREF(module);
    return code;
}

PyDoc_STRVAR(accelerate_doc,
"accelerate(stream_class, event_class, module, known, by_type, /)\n"
"--\n\n"
"Put the fast methods into the classes, and the fast as_stream into the module.\n\n"
"Args:\n"
"    stream_class, event_class: subclasses of StreamFields and EventFields.\n"
"    module: the module that has as_stream.\n"
"    known: by the identity of another library's object, the stream that it is, without an owner.\n"
"    by_type: by a class, the adapters of the libraries that it comes from, if they were looked for.");

static PyObject *
accelerate(PyObject *module, PyObject *arguments)
{
    PyObject *streams, *events, *python, *known, *by_type;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!OO!O!:accelerate", &PyType_Type, &streams, &PyType_Type, &events, &python,
                          &PyDict_Type, &known, &PyDict_Type, &by_type)) {
        return NULL;
    }
    keep((PyObject **)&stream_class, streams);
    keep((PyObject **)&event_class, events);
    if (set_tables(known, by_type) || replace(streams, of_streams) || replace(events, of_events) ||
        replace(python, of_module)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyMethodDef methods_functions[] = {
    {"accelerate", accelerate, METH_VARARGS, accelerate_doc},
    {NULL, NULL, 0, NULL},
};
