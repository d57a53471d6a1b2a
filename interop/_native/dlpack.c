/* DLPack: export tensors, in capsules or without, and import them. https://dmlc.github.io/dlpack/latest/c_api.html, version
 * 1, and the struct from before versions. The deleter of an exported tensor must work in any thread, with or without the
 * GIL, while an exception is set, and after the end of the interpreter. No Python function can do that.
 */

#include "native.h"

#include <stdlib.h>
#ifdef __linux__
#include <dlfcn.h>
#endif

enum { SUBBYTE_TYPE_PADDED = 1 << 2 }; /* a flag */

static const char UNVERSIONED[] = "dltensor", VERSIONED[] = "dltensor_versioned";
static const char USED_UNVERSIONED[] = "used_dltensor", USED_VERSIONED[] = "used_dltensor_versioned";

static PyTypeObject *taken_type;
static PyObject *tensor_class, *dtype_class; /* interop's Tensor and DataType, which are tuples */
static PyObject *unsupported, *invalid;      /* classes of errors */

/* -- exporting -------------------------------------------------------------------------------------------------------- */

/* Whether this thread has the GIL; 1 if that cannot be found out. The stable ABI lacks the function, every Python has it. */
static int
has_gil(void)
{
#ifdef __linux__
    static int (*check)(void);

    if (check == NULL) {
        check = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Check");
    }
    return check == NULL || check();
#else
    return 1;
#endif
}

static void
release_owner(PyObject *owner)
{
    PyObject *type, *value, *traceback;
    PyGILState_STATE state;

    /* Then the owner is never freed: to take the GIL at exit may end the thread, and a thread of C++ ends the process. */
    if (has_ended || !Py_IsInitialized()) {
        return;
    }
    if (!has_gil() && end_without_gil(owner)) {
        return;
    }
    state = PyGILState_Ensure();
    PyErr_Fetch(&type, &value, &traceback);
    Py_DECREF(owner);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(state);
}

static void
delete_unversioned(DLManagedTensor *managed)
{
    PyObject *owner = managed->owner;

    free(managed);
    release_owner(owner);
}

void
delete_versioned(DLManagedTensorVersioned *managed)
{
    PyObject *owner = managed->owner;

    free(managed);
    release_owner(owner);
}

/* Copy the numbers of a tuple of ndim ints. */
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

/* Allocate *head* bytes, and behind them the shape and the strides of a Tensor, which *described* then points to. NULL
 * with an exception. */
void *
describe(PyObject *tensor, size_t head, DLTensor *described, int *read_only)
{
    PyObject *shape, *strides, *owner;
    unsigned long long address;

    if (!PyTuple_Check(tensor) || !PyArg_ParseTuple(tensor, "KO!O(bbH)iipO:Tensor", &address, &PyTuple_Type, &shape,
                                                    &strides, &described->code, &described->bits, &described->lanes,
                                                    &described->device_type, &described->device_id, read_only, &owner)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "expected a Tensor");
        }
        return NULL;
    }
    Py_ssize_t ndim = PyTuple_Size(shape);
    char *memory = calloc(1, head + 2 * sizeof(int64_t) * (size_t)ndim);
    if (memory == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    described->data = pointer(address);
    described->ndim = (int32_t)ndim;
    described->shape = (int64_t *)(memory + head);
    described->strides = described->shape + ndim;
    described->byte_offset = 0;
    if (read_numbers(shape, ndim, described->shape) ||
        (strides != Py_None && read_numbers(strides, ndim, described->strides))) {
        free(memory);
        return NULL;
    }
    uint64_t step = 1; /* may leave the 64 bits where there are no elements */
    for (Py_ssize_t i = ndim - 1; strides == Py_None && i >= 0; i--) {
        described->strides[i] = (int64_t)step;
        step *= described->shape[i] ? (uint64_t)described->shape[i] : 1;
    }
    return memory;
}

/* Export a Tensor, and keep *owner*, which keeps its memory alive, until the deleter. NULL with an exception. */
DLManagedTensorVersioned *
give(PyObject *tensor, PyObject *owner)
{
    DLTensor described;
    int read_only;
    DLManagedTensorVersioned *managed = describe(tensor, sizeof *managed, &described, &read_only);

    if (managed != NULL) {
        managed->major = 1;
        managed->owner = Py_NewRef(owner);
        managed->deleter = delete_versioned;
        managed->flags = read_only ? READ_ONLY : 0;
        managed->tensor = described;
    }
    return managed;
}

static DLManagedTensor *
give_unversioned(PyObject *tensor, PyObject *owner)
{
    DLTensor described;
    int unsaid;
    DLManagedTensor *managed = describe(tensor, sizeof *managed, &described, &unsaid);

    if (managed != NULL) {
        managed->owner = Py_NewRef(owner);
        managed->deleter = delete_unversioned;
        managed->tensor = described;
    }
    return managed;
}

/* A consumer renames the capsule: one that still has its name was not consumed. */
static void
destroy_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, UNVERSIONED)) {
        delete_unversioned(PyCapsule_GetPointer(capsule, UNVERSIONED));
    }
    else if (PyCapsule_IsValid(capsule, VERSIONED)) {
        delete_versioned(PyCapsule_GetPointer(capsule, VERSIONED));
    }
}

PyDoc_STRVAR(make_capsule_doc,
"make_capsule(tensor, owner, versioned, /)\n"
"--\n\n"
"A DLPack capsule over the memory of a Tensor, which lives for as long as *owner*: the capsule keeps that alive.\n\n"
"Args:\n"
"    tensor: its own owner is not used.\n"
"    owner: released when the consumer is done, or with a capsule that nobody consumed.\n"
"    versioned: whether the capsule is of version 1.0, or of the form from before versions, which cannot say \"read-only\".");

static PyObject *
make_capsule(PyObject *module, PyObject *arguments)
{
    PyObject *tensor, *owner, *capsule;
    int versioned;
    void *managed;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOp:make_capsule", &tensor, &owner, &versioned)) {
        return NULL;
    }
    managed = versioned ? (void *)give(tensor, owner) : (void *)give_unversioned(tensor, owner);
    capsule = managed == NULL ? NULL : PyCapsule_New(managed, versioned ? VERSIONED : UNVERSIONED, destroy_capsule);
    if (managed != NULL && capsule == NULL) {
        free(managed);
        Py_DECREF(owner);
    }
    return capsule;
}

/* -- importing -------------------------------------------------------------------------------------------------------- */

/* An imported tensor. Its deleter is called when this object is freed. */
typedef struct {
    PyObject_HEAD
    void *managed;
    void (*deleter)(void *); /* NULL if there is none: then the tensor may be freed already */
} Taken;

static void
taken_dealloc(PyObject *self)
{
    Taken *taken = (Taken *)self;
    PyObject *type, *value, *traceback;

    if (taken->deleter != NULL && !has_ended) { /* else the producer's tensor is never freed */
        PyErr_Fetch(&type, &value, &traceback);
        taken->deleter(taken->managed);
        PyErr_Restore(type, value, traceback);
    }
    free_object(self);
}

static PyObject *
tuple_of(const int64_t *numbers, int32_t count)
{
    PyObject *tuple = PyTuple_New(count);

    for (int32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLongLong(numbers[i]);
        if (number == NULL || PyTuple_SetItem(tuple, i, number)) {
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

/* An object of a class that is a tuple; takes the references to the items, of which NULL means an exception. It is made by
 * tuple.__new__: a tuple of Python 3.14 keeps its hash, which one that is only allocated has as 0. */
static PyObject *
named_tuple(PyObject *class, Py_ssize_t count, PyObject **items)
{
    newfunc new = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    PyObject *values = PyTuple_New(count);

    for (Py_ssize_t i = 0; i < count; i++) {
        if (values == NULL || items[i] == NULL) {
            Py_XDECREF(items[i]);
            Py_CLEAR(values);
        }
        else if (PyTuple_SetItem(values, i, items[i])) {
            Py_CLEAR(values);
        }
    }
    PyObject *arguments = values == NULL ? NULL : PyTuple_Pack(1, values);
    PyObject *made = arguments == NULL ? NULL : new((PyTypeObject *)class, arguments, NULL);
    Py_XDECREF(arguments);
    Py_XDECREF(values);
    return made;
}

/* A Tensor for a DLTensor of another library; NULL with an exception. */
PyObject *
tensor_of(const DLTensor *tensor, int read_only, PyObject *owner)
{
    if (tensor->ndim < 0 || tensor->ndim > MOST_DIMENSIONS) {
        return PyErr_Format(invalid, "the array states %d dimensions; no library has arrays of more than %d",
                            (int)tensor->ndim, MOST_DIMENSIONS);
    }
    if (tensor->ndim && tensor->shape == NULL) {
        return PyErr_Format(invalid, "the array states %d dimensions, and no shape", (int)tensor->ndim);
    }
    if (tensor->byte_offset > UINTPTR_MAX - (uintptr_t)tensor->data) {
        return PyErr_Format(invalid, "the array states the address %p, and an offset that ends beyond all addresses",
                            tensor->data);
    }
    PyObject *type[] = {PyLong_FromLong(tensor->code), PyLong_FromLong(tensor->bits), PyLong_FromLong(tensor->lanes)};
    PyObject *items[] = {
        PyLong_FromUnsignedLongLong((uintptr_t)tensor->data + tensor->byte_offset),
        tuple_of(tensor->shape, tensor->ndim),
        tensor->ndim && tensor->strides != NULL ? tuple_of(tensor->strides, tensor->ndim) : Py_NewRef(Py_None),
        named_tuple(dtype_class, 3, type),
        PyLong_FromLong(tensor->device_type),
        PyLong_FromLong(tensor->device_id),
        PyBool_FromLong(read_only),
        Py_NewRef(owner),
    };
    return named_tuple(tensor_class, 8, items);
}

PyDoc_STRVAR(read_capsule_doc,
"read_capsule(capsule, /)\n"
"--\n\n"
"Take over a DLPack capsule of either kind, as its consumer: it can be consumed only once.\n\n"
"Its managed tensor stays for as long as the Tensor's owner; then its deleter is called, once, in whichever thread\n"
"frees the owner, with the GIL held. Only when the interpreter exits it is not called.\n\n"
"Raises:\n"
"    InvalidArrayError: it states a number of dimensions that cannot be.\n"
"    NotSupportedError: this is no DLPack capsule, or a used one; its version is not 1.x; its elements, smaller than\n"
"        a byte, are padded. In the last two cases the capsule has been consumed, and its deleter called.");

static PyObject *
read_capsule(PyObject *module, PyObject *capsule)
{
    int versioned = PyCapsule_IsValid(capsule, VERSIONED);
    const char *name = versioned ? VERSIONED : UNVERSIONED;
    DLManagedTensorVersioned *managed;
    PyObject *tensor = NULL;
    Taken *taken;

    (void)module;
    if (!PyCapsule_IsValid(capsule, name)) {
        if (PyCapsule_IsValid(capsule, USED_VERSIONED) || PyCapsule_IsValid(capsule, USED_UNVERSIONED)) {
            return PyErr_Format(unsupported, "the DLPack capsule was consumed before, and can be only once: ask for a "
                                             "new one with __dlpack__()");
        }
        return PyErr_Format(unsupported, "expected a DLPack capsule, such as __dlpack__() returns; got %R", Py_TYPE(capsule));
    }
    taken = (Taken *)PyType_GenericAlloc(taken_type, 0);
    if (taken == NULL) {
        return NULL;
    }
    managed = taken->managed = PyCapsule_GetPointer(capsule, name);
    taken->deleter = versioned ? (void (*)(void *))managed->deleter
                               : (void (*)(void *))((DLManagedTensor *)taken->managed)->deleter;
    PyCapsule_SetName(capsule, versioned ? USED_VERSIONED : USED_UNVERSIONED);
    if (!versioned) {
        tensor = tensor_of(&((DLManagedTensor *)taken->managed)->tensor, 0, (PyObject *)taken);
    }
    else if (managed->major != 1) {
        PyErr_Format(unsupported, "the capsule is of DLPack %u.%u, and interop knows 1.x only: ask for that with "
                                  "__dlpack__(max_version=(1, 0))", (unsigned)managed->major, (unsigned)managed->minor);
    }
    else if (managed->flags & SUBBYTE_TYPE_PADDED) {
        PyErr_SetString(unsupported, "the elements are smaller than a byte and padded: hand over packed ones, or a view "
                                     "as bytes");
    }
    else {
        tensor = tensor_of(&managed->tensor, (managed->flags & READ_ONLY) != 0, (PyObject *)taken);
    }
    Py_DECREF((PyObject *)taken);
    return tensor;
}

/* -- the module ------------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(prepare_doc,
"prepare_dlpack(tensor, dtype, unsupported, invalid, /)\n"
"--\n\n"
"Take the classes Tensor, DataType, NotSupportedError and InvalidArrayError.");

static PyObject *
prepare(PyObject *module, PyObject *arguments)
{
    PyObject *tensor, *dtype, *error, *other;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!OO:prepare_dlpack", &PyType_Type, &tensor, &PyType_Type, &dtype, &error, &other)) {
        return NULL;
    }
    keep(&tensor_class, tensor);
    keep(&dtype_class, dtype);
    keep(&unsupported, error);
    keep(&invalid, other);
    Py_RETURN_NONE;
}

static PyType_Slot taken_slots[] = {
    {Py_tp_doc, "A tensor that was taken; its deleter is called when this object is freed."},
    {Py_tp_dealloc, taken_dealloc},
    {0, NULL},
};

static PyType_Spec taken_spec = {
    "interop._native._ext.Taken", sizeof(Taken), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, taken_slots};

int
add_taken_type(PyObject *module)
{
    return add_type(module, &taken_spec, &taken_type);
}

PyMethodDef dlpack_functions[] = {
    {"make_capsule", make_capsule, METH_VARARGS, make_capsule_doc},
    {"prepare_dlpack", prepare, METH_VARARGS, prepare_doc},
    {"read_capsule", read_capsule, METH_O, read_capsule_doc},
    {NULL, NULL, 0, NULL},
};
