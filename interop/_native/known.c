/* Streams and events of other libraries. Python asks a library's adapter about an object; a stream that stays the same
 * is remembered by the object's identity, in a dict that is read here. */

#include "native.h"

static PyObject *known;    /* dict: the id of an object -> the stream that it is, without an owner */
static PyObject *adapters; /* dict: a class -> the adapters of its libraries, if they were looked for */
static PyObject *str_event_handle;

int
set_tables(PyObject *streams, PyObject *by_type)
{
    keep(&known, streams);
    keep(&adapters, by_type);
    str_event_handle = PyUnicode_InternFromString("event_handle");
    return str_event_handle == NULL ? -1 : 0;
}

/* A new reference to the stream that another library's object is, if that is remembered; else NULL, maybe with an
 * exception. The stream has no owner. */
Stream *
known_stream(PyObject *object)
{
    PyObject *key, *found;

    if (active != bound || (key = PyLong_FromVoidPtr(object)) == NULL) {
        return NULL;
    }
    found = PyDict_GetItemWithError(known, key);
    Py_XINCREF(found);
    Py_DECREF(key);
    /* Not a stream of a driver or simulation that is no longer in use. */
    if (found != NULL && ((Stream *)found)->cuda == bound) {
        return (Stream *)found;
    }
    Py_XDECREF(found);
    return NULL;
}

/* The handle of another library's event; 0 if the fallback is to be taken, or with an exception. */
unsigned long long
foreign_event(PyObject *object)
{
    PyObject *of_class, *adapter, *answer;
    unsigned long long handle = 0;

    /* Python handles an int, which is a handle, and a class, which is an error. */
    if (active != bound || PyType_Check(object) || PyLong_Check(object)) {
        return 0;
    }
    of_class = PyDict_GetItemWithError(adapters, (PyObject *)Py_TYPE(object));
    if (of_class == NULL || PyTuple_Size(of_class) != 1) {
        PyErr_Clear(); /* a class that cannot be hashed is found by Python */
        return 0;
    }
    adapter = PyTuple_GetItem(of_class, 0);
    Py_INCREF(adapter); /* taken before any Python code can run */
    answer = PyObject_CallMethodObjArgs(adapter, str_event_handle, object, NULL);
    if (answer == NULL && PyErr_ExceptionMatches(PyExc_Exception)) { /* else it is raised, as KeyboardInterrupt is */
        PyErr_Clear(); /* Python asks once more, and raises the error */
    }
    if (answer != NULL && PyLong_CheckExact(answer)) {
        handle = PyLong_AsUnsignedLongLong(answer);
        if (PyErr_Occurred()) {
            PyErr_Clear(); /* out of range: Python raises the error */
            handle = 0;
        }
    }
    Py_XDECREF(answer);
    Py_DECREF(adapter);
    return can_be_read(handle) ? handle : 0;
}
