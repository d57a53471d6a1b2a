/* What Python cannot do, or not fast enough.
 *
 * Built on CPython's stable ABI (3.11), without any header of CUDA's or DLPack's. Without a compiler the package works
 * all the same, in plain Python, except that it cannot give arrays away by DLPack.
 *
 * One interpreter a process: what is static here is the main interpreter's. The module refuses to be imported by
 * another one, and interop then takes the plain way.
 */

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

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

/* -- the module --------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"dlpack_capsule", dlpack_capsule, METH_VARARGS, dlpack_capsule_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "interop._native",
    .m_doc = "The parts of interop that are written in C.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError, "interop._native works in the main interpreter only");
        return NULL;
    }
    return PyModule_Create(&definition);
}
