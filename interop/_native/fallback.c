/* The fallback. Python handles all cases that the fast path does not cover, and explains the errors of the driver. So only
 * Python has the rules. */

#include "native.h"

/* Call a function of Python's with the arguments of a fast one. *self* is NULL for a function that is no method. */
PyObject *
call_python(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
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
    result = PyObject_Call(function, positional, keywords);
done:
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* Make a stream or event raise the exception for the driver's error *code* of *call*. Returns NULL, so that the caller can
 * return it. *other* is the event or the producer, or None. */
PyObject *
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
