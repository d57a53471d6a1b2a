/* The driver: its entry points, by their addresses, and which driver is bound. */

#include "native.h"

#include <errno.h>
#include <string.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)) /* CUDA's two Linux platforms */
#include <sys/syscall.h>
#include <unistd.h>
#define CAN_PROBE
#endif

enum { FIRST_PAGE = 4096 }; /* no memory is mapped below this address */

Driver driver;
PyObject *bound, *active, *pools;
int watched;

/* Replace the reference that a variable holds. */
void
keep(PyObject **place, PyObject *object)
{
    PyObject *before = *place;

    Py_INCREF(object);
    *place = object;
    Py_XDECREF(before);
}

PyDoc_STRVAR(bind_doc,
"bind(addresses, cuda, pools, /)\n"
"--\n\n"
"Take a driver.\n\n"
"Args:\n"
"    addresses: of its functions, in the order of HOT_CALLS.\n"
"    cuda: the Cuda object of this driver.\n"
"    pools: its pools of spare events, by the id of the context.");

static PyObject *
bind(PyObject *module, PyObject *arguments)
{
    PyObject *addresses, *object, *spare;
    unsigned long long a[14];

    _Static_assert(sizeof a == sizeof driver, "one address for each function, on a machine of 64 bits");
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!OO!:bind", &PyTuple_Type, &addresses, &object, &PyDict_Type, &spare) ||
        !PyArg_ParseTuple(addresses, "KKKKKKKKKKKKKK:bind", a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6, a + 7, a + 8,
                          a + 9, a + 10, a + 11, a + 12, a + 13)) {
        return NULL;
    }
    memcpy(&driver, a, sizeof driver);
    keep(&bound, object);
    keep(&pools, spare);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(activate_doc,
"activate(cuda, /)\n"
"--\n\n"
"Take note of the Cuda object that new streams are made under. While that is a simulation's, the objects of other\n"
"libraries fall back to Python, which says that they are not simulated.");

static PyObject *
activate(PyObject *module, PyObject *object)
{
    (void)module;
    keep(&active, object);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_doc,
"watch(on, /)\n"
"--\n\n"
"Whether every call shall fall back to Python, which tells the watchers.");

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

PyDoc_STRVAR(record_handle_doc,
"record_handle(stream, event, /)\n"
"--\n\n"
"Record a stream's work so far in an event of its context, given by its handle. No watcher is told. If the driver\n"
"fails, the error is raised.\n\n"
"Returns:\n"
"    False, and nothing was recorded, if the stream captures, or if the fast path does not cover it.");

static PyObject *
record_handle(PyObject *module, PyObject *arguments)
{
    PyObject *stream, *number;
    unsigned long long event;
    int code;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!:record_handle", stream_type, &stream, &PyLong_Type, &number)) {
        return NULL;
    }
    event = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    code = record_and_wait((Stream *)stream, NULL, &event);
    if (code != SUCCESS && code != FALL_BACK) {
        return failed(stream, "cudaEventRecord", code, Py_None);
    }
    return PyBool_FromLong(code == SUCCESS);
}

/* An attribute, or NULL with an exception. *name* keeps the string for the next time. */
PyObject *
attribute(PyObject *object, PyObject **name, const char *text)
{
    if (*name == NULL && (*name = PyUnicode_InternFromString(text)) == NULL) {
        return NULL;
    }
    return PyObject_GetAttr(object, *name);
}

/* Whether this process can read the eight bytes at an address; 1 where that cannot be found out. _cuda does the
 * same, and says why it is done so. */
int
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

PyMethodDef driver_functions[] = {
    {"activate", activate, METH_O, activate_doc},
    {"bind", bind, METH_VARARGS, bind_doc},
    {"readable", readable, METH_O, readable_doc},
    {"record_handle", record_handle, METH_VARARGS, record_handle_doc},
    {"watch", watch, METH_O, watch_doc},
    {NULL, NULL, 0, NULL},
};
