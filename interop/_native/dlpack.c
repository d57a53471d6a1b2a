/* DLPack capsules, for arrays that are given away.
 *
 * https://dmlc.github.io/dlpack/latest/c_api.html, version 1.0, and the structure from before versions. The function
 * that frees a capsule's tensor must work in any thread, with or without the GIL, with an exception in flight, and after
 * the end of the interpreter. No Python function can do that.
 */

#include "native.h"

#include <stdlib.h>

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

typedef struct DLManagedTensorVersioned {
    uint32_t major;
    uint32_t minor;
    void *owner;
    void (*deleter)(struct DLManagedTensorVersioned *);
    uint64_t flags;
    DLTensor tensor;
} DLManagedTensorVersioned;

enum { READ_ONLY = 1 };

static const char UNVERSIONED[] = "dltensor", VERSIONED[] = "dltensor_versioned";

static void
release_owner(PyObject *owner)
{
    PyObject *type, *value, *traceback;
    PyGILState_STATE state;

    if (!Py_IsInitialized()) {
        return; /* the owner goes with the process */
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

static void
delete_versioned(DLManagedTensorVersioned *managed)
{
    PyObject *owner = managed->owner;

    free(managed);
    release_owner(owner);
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

PyDoc_STRVAR(dlpack_capsule_doc,
"dlpack_capsule(owner, versioned, read_only, address, shape, strides, dtype, device, /)\n"
"--\n\n"
"A DLPack capsule over memory that lives for as long as *owner*, which it keeps alive.\n\n"
"Args:\n"
"    owner: released when the consumer is done, or with a capsule that nobody consumed.\n"
"    versioned: whether the capsule is of version 1.0, or of the form from before versions.\n"
"    read_only: whether the capsule says that the memory is read-only; only version 1.0 can say it.\n"
"    address: of the first element.\n"
"    shape, strides: tuples of the same length, in elements; no strides, None, if C-contiguous.\n"
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
    if (!PyArg_ParseTuple(arguments, "OppKO!O(bbH)(ii):dlpack_capsule", &owner, &versioned, &read_only, &address,
                          &PyTuple_Type, &shape, &strides, &code, &bits, &lanes, &device_type,
                          &device_id)) {
        return NULL;
    }
    Py_ssize_t ndim = PyTuple_Size(shape);
    size_t head = versioned ? sizeof(DLManagedTensorVersioned) : sizeof(DLManagedTensor); /* both are multiples of eight */
    char *memory = calloc(1, head + 2 * sizeof(int64_t) * (size_t)ndim);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    DLTensor *tensor =
        versioned ? &((DLManagedTensorVersioned *)memory)->tensor : &((DLManagedTensor *)memory)->tensor;
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
    if (read_numbers(shape, ndim, tensor->shape) ||
        (strides != Py_None && read_numbers(strides, ndim, tensor->strides))) {
        free(memory);
        return NULL;
    }
    for (int64_t i = ndim - 1, step = 1; strides == Py_None && i >= 0; i--) {
        tensor->strides[i] = step;
        step *= tensor->shape[i] ? tensor->shape[i] : 1;
    }
    if (versioned) {
        DLManagedTensorVersioned *managed = (DLManagedTensorVersioned *)memory;
        managed->major = 1;
        managed->flags = read_only ? READ_ONLY : 0;
        managed->owner = owner;
        managed->deleter = delete_versioned;
    }
    else {
        DLManagedTensor *managed = (DLManagedTensor *)memory;
        managed->owner = owner;
        managed->deleter = delete_unversioned;
    }
    capsule = PyCapsule_New(memory, versioned ? VERSIONED : UNVERSIONED, destroy_capsule);
    if (capsule == NULL) {
        free(memory);
        return NULL;
    }
    Py_INCREF(owner);
    return capsule;
}

PyMethodDef dlpack_functions[] = {
    {"dlpack_capsule", dlpack_capsule, METH_VARARGS, dlpack_capsule_doc},
    {NULL, NULL, 0, NULL},
};
