/* The exchange of tensors in C: __dlpack_c_exchange_api__, a capsule on the type of a library's arrays, in DLPack 1.3.
 *
 * https://dmlc.github.io/dlpack/latest/c_api.html. PyTorch's tensors are read and made through theirs, cuda.core's views
 * too; and Handover has one, for whoever takes it. Nothing here orders streams.
 */

#include "native.h"

#include <stdlib.h>

static const char NAME[] = "dlpack_exchange_api";

typedef void SetError(void *, const char *, const char *);

typedef struct ExchangeAPI {
    uint32_t major;
    uint32_t minor;
    struct ExchangeAPI *older;
    int (*allocate)(DLTensor *, DLManagedTensorVersioned **, void *, SetError *);
    int (*from_object)(void *, DLManagedTensorVersioned **);
    int (*to_object)(DLManagedTensorVersioned *, void **);
    int (*view_of_object)(void *, DLTensor *); /* may be NULL */
    int (*current_stream)(int32_t, int32_t, void **);
} ExchangeAPI;

/* -- of other libraries ------------------------------------------------------------------------------------------------ */

/* The struct of a type, in version 1; NULL with an exception. */
static ExchangeAPI *
api_of(PyObject *type)
{
    static PyObject *name;
    PyObject *capsule = attribute(type, &name, "__dlpack_c_exchange_api__");
    ExchangeAPI *api = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, NAME);

    Py_XDECREF(capsule); /* the struct that it points to is never freed */
    while (api != NULL && api->major > 1) {
        api = api->older;
    }
    if (api == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_BufferError, "%R exchanges no tensors of DLPack 1", type);
    }
    return api;
}

static int
is_c_contiguous(const DLTensor *tensor)
{
    uint64_t step = 1; /* may leave the 64 bits before a dimension without elements is found */
    int is = 1;

    if (tensor->ndim > MOST_DIMENSIONS || tensor->shape == NULL || tensor->strides == NULL) {
        return 0; /* the tensor is not valid */
    }
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] == 0) {
            return 1;
        }
        is = is && (tensor->shape[i] == 1 || (uint64_t)tensor->strides[i] == step);
        step *= (uint64_t)tensor->shape[i];
    }
    return is;
}

PyDoc_STRVAR(read_doc,
"read_tensor(array, read_only, /)\n"
"--\n\n"
"The memory of an array, by the exchange API of its type. The Tensor's owner is *array*; it says *read_only* as you do.\n\n"
"Raises:\n"
"    Exception: the type has no such API, or the array's memory cannot be described.");

static PyObject *
read_tensor(PyObject *module, PyObject *arguments)
{
    PyObject *array;
    ExchangeAPI *api;
    DLTensor tensor;
    int read_only;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "Op:read_tensor", &array, &read_only) ||
        (api = api_of((PyObject *)Py_TYPE(array))) == NULL) {
        return NULL;
    }
    if (api->view_of_object == NULL) {
        return PyErr_Format(PyExc_BufferError, "%R shows no tensors", Py_TYPE(array));
    }
    if (api->view_of_object(array, &tensor)) {
        return NULL;
    }
    if (is_c_contiguous(&tensor)) {
        tensor.strides = NULL;
    }
    return tensor_of(&tensor, read_only, array);
}

/* What this thread has offered to a library. NULL: nothing, or its deleter was called. */
static _Thread_local DLManagedTensorVersioned *offered;

static void
delete_offered(DLManagedTensorVersioned *managed)
{
    if (managed == offered) {
        offered = NULL;
    }
    delete_versioned(managed);
}

PyDoc_STRVAR(make_doc,
"make_tensor(type, tensor, owner, /)\n"
"--\n\n"
"An array of a type that has an exchange API, over the memory of a Tensor. The array keeps *owner* alive.\n\n"
"Raises:\n"
"    Exception: the library refuses.");

static PyObject *
make_tensor(PyObject *module, PyObject *arguments)
{
    PyObject *type, *tensor, *owner;
    DLManagedTensorVersioned *managed, *before = offered;
    ExchangeAPI *api;
    void *made = NULL;
    int refused;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!OO:make_tensor", &PyType_Type, &type, &tensor, &owner) ||
        (api = api_of(type)) == NULL || (managed = give(tensor, owner)) == NULL) {
        return NULL;
    }
    managed->deleter = delete_offered;
    offered = managed;
    refused = api->to_object(managed, &made);
    if (refused && offered == managed) { /* PyTorch leaves it to us, cuda.core has called the deleter */
        delete_versioned(managed);
    }
    offered = before;
    if (refused && !PyErr_Occurred()) { /* cuda.core */
        PyErr_Format(PyExc_BufferError, "%R refuses the tensor, and does not say why", type);
    }
    return refused ? NULL : made;
}

/* -- of Handover ------------------------------------------------------------------------------------------------------ */

/* The stream of the Handover that this thread exported last. A consumer asks for it right after the export. */
static _Thread_local unsigned long long last_stream;

/* The Handover that is to be exported. NULL with an exception if it must not be, or if C cannot name its stream. */
static Holder *
to_give(PyObject *object)
{
    Holder *holder = (Holder *)object;
    Stream *stream;
    PyObject *said;

    if (!PyObject_TypeCheck(object, holder_type)) {
        PyErr_Format(PyExc_TypeError, "expected a Handover, and got an object of %R", Py_TYPE(object));
        return NULL;
    }
    stream = (Stream *)holder->consumer;
    if (!holder->closes && stream->handle > PER_THREAD && PyTuple_GetItem(holder->tensor, 2) == Py_None && is_ready(stream)) {
        last_stream = stream->handle;
        return holder;
    }
    said = PyObject_CallMethod(object, "_exchanged", NULL);
    last_stream = said == NULL ? 0 : PyLong_AsUnsignedLongLong(said);
    Py_XDECREF(said);
    return PyErr_Occurred() ? NULL : holder;
}

static int
give_object(void *object, DLManagedTensorVersioned **managed)
{
    Holder *holder = to_give(object);

    *managed = holder == NULL ? NULL : give(holder->tensor, object);
    return *managed == NULL ? -1 : 0;
}

/* The numbers live for as long as the holder. */
static int
show_object(void *object, DLTensor *tensor)
{
    Holder *holder = to_give(object);
    int read_only;
    void *view = holder == NULL ? NULL : describe(holder->tensor, 0, tensor, &read_only);

    if (view == NULL) {
        return -1;
    }
    if (read_only) {
        free(view);
        PyErr_SetString(PyExc_BufferError, "a read-only hand-over can be given only in a form that says so");
        return -1;
    }
    if (holder->view == NULL) {
        holder->view = view;
    }
    else { /* another consumer may still read the older shape and strides */
        tensor->shape = holder->view;
        tensor->strides = tensor->shape + tensor->ndim;
        free(view);
    }
    return 0;
}

static int
tell_stream(int32_t device_type, int32_t device_id, void **stream)
{
    (void)device_type;
    (void)device_id;
    if (last_stream == 0) {
        PyErr_SetString(PyExc_RuntimeError, "this thread has given no hand-over yet that a stream could be told of");
        return -1;
    }
    *stream = pointer(last_stream);
    return 0;
}

static int
refuse_to_allocate(DLTensor *like, DLManagedTensorVersioned **made, void *context, SetError *set_error)
{
    (void)like;
    *made = NULL;
    set_error(context, "NotImplementedError", "a Handover is only made by interop.handoff, and allocates nothing");
    return -1;
}

static int
refuse_to_make(DLManagedTensorVersioned *managed, void **made)
{
    (void)managed;
    *made = NULL;
    PyErr_SetString(PyExc_NotImplementedError, "a Handover is only made by interop.handoff");
    return -1;
}

static ExchangeAPI ours = {1, 3, NULL, refuse_to_allocate, give_object, refuse_to_make, show_object, tell_stream};

int
add_exchange_api(PyObject *module)
{
    PyObject *capsule = PyCapsule_New(&ours, NAME, NULL);
    int failed = capsule == NULL || PyModule_AddObjectRef(module, "exchange_api", capsule);

    Py_XDECREF(capsule);
    return failed ? -1 : 0;
}

PyMethodDef exchange_functions[] = {
    {"make_tensor", make_tensor, METH_VARARGS, make_doc},
    {"read_tensor", read_tensor, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};
