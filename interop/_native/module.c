/* The module interop._native._ext. */

#include "native.h"

/* Once in a process: all static variables then belong to the main interpreter. */
static int
execute(PyObject *module)
{
    PyMethodDef *functions[] = {
        driver_functions, dlpack_functions, exchange_functions, methods_functions,
        open_functions, handover_functions, keepalive_functions, order_functions,
        recorder_functions, frames_functions, NULL,
    };

    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0 || stream_type != NULL) {
        PyErr_SetString(PyExc_ImportError, "interop._native._ext works once, and in the main interpreter only");
        return -1;
    }
    for (PyMethodDef **group = functions; *group != NULL; group++) {
        if (PyModule_AddFunctions(module, *group)) {
            return -1;
        }
    }
    return add_types(module) || add_taken_type(module) || add_handover_types(module) || add_exchange_api(module) ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "interop._native._ext",
    .m_doc = "The parts of interop that are written in C.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__ext(void)
{
    return PyModuleDef_Init(&definition);
}
