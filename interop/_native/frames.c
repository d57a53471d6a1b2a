/* The lines of Python that led to a call, without the GIL.
 *
 * A thread that has let go of the GIL is the only one that changes its own frames, and it is inside a call of C. So it may
 * read them, if it knows where they lie. That differs from one version of Python to the next: the layouts are below, and
 * frames_open() believes one only after it has read all frames of its caller as Python itself tells them.
 *
 * What is recorded of a frame is the address of its code and the offset of the instruction. The reader looks for the code
 * among the codes that live then, and compares the fingerprint: another code may have come to that address.
 */

#include "recorder.h"

/* Offsets: the current frame in a thread's state, or in the structure that it points to (indirect); and in a frame. */
typedef struct {
    int first, last, current, indirect, within, code, previous, instruction;
} Layout;

static const Layout LAYOUTS[] = {
    {0x030b, 0x030b, 56, 1, 8, 32, 48, 56},
    {0x030c, 0x030c, 56, 1, 0, 0, 8, 56},
    {0x030d, 0x030f, 72, 0, 0, 0, 8, 56},
};

static const Layout *layout; /* NULL: no lines are taken */
static PyTypeObject *code_type;
static ptrdiff_t start_of_code, file_at, name_at; /* in a code object */

#define AT(type, address, offset) (*(type const *)((const char *)(address) + (offset)))

typedef struct {
    uint64_t code, fingerprint, offset;
} Frame;

static const void *
current_frame(const Layout *by)
{
    PyThreadState *state = PyGILState_GetThisThreadState();
    const void *place = state;

    if (state == NULL) {
        return NULL;
    }
    if (by->indirect) {
        place = AT(void *, state, by->current);
        return place == NULL ? NULL : AT(void *, place, by->within);
    }
    return AT(void *, place, by->current);
}

/* The code of a frame; NULL if the frame is of another kind. The lowest bits of the address are a tag in 3.14. */
static PyObject *
code_of(const Layout *by, const void *frame)
{
    PyObject *object = (PyObject *)(AT(uintptr_t, frame, by->code) & ~(uintptr_t)7);

    return object != NULL && Py_TYPE(object) == code_type ? object : NULL;
}

static int
read_frames(Frame *frames)
{
    int count = 0;

    for (const void *at = current_frame(layout); at != NULL && count < MOST_FRAMES; at = AT(void *, at, layout->previous)) {
        const PyObject *code = code_of(layout, at);
        if (code != NULL) {
            frames[count].code = (uintptr_t)code;
            frames[count].fingerprint = AT(uint64_t, code, file_at) ^ (AT(uint64_t, code, name_at) << 1);
            frames[count].offset = AT(uint64_t, at, layout->instruction) - (uintptr_t)code - (uint64_t)start_of_code;
            count++;
        }
    }
    return count;
}

/* The number of this thread's stack, which is recorded when it is first seen; 0 if the thread runs no Python. */
uint64_t
stack_of_this_thread(void)
{
    Frame frames[MOST_FRAMES];
    uint64_t key = 0x9E3779B97F4A7C15ull;
    int count;

    if (layout == NULL || (count = read_frames(frames)) == 0) {
        return 0;
    }
    for (int i = 0; i < count; i++) {
        key = (key ^ frames[i].code ^ (frames[i].offset << 48)) * 0xD6E8FEB86659FD93ull;
        key ^= key >> 32;
    }
    key |= 1;
    if (first_time(key)) {
        Record record = {.kind = KIND_STACK, .stack = key, .words = (uint32_t)(3 * count)};
        emit(&record, &frames[0].code, NULL, 0);
    }
    return key;
}

/* Where the value of an attribute lies in a code object; -1 if nowhere among its first bytes. */
static ptrdiff_t
attribute_at(PyObject *code, const char *attribute)
{
    PyObject *value = PyObject_GetAttrString(code, attribute);
    ptrdiff_t at = sizeof(PyObject);

    while (at < 192 && AT(void *, code, at) != (void *)value) {
        at += 8;
    }
    Py_XDECREF(value);
    return value == NULL || at == 192 ? -1 : at;
}

static long
last_instruction(PyObject *frame)
{
    PyObject *value = PyObject_GetAttrString(frame, "f_lasti");
    long offset = value == NULL ? -1 : PyLong_AsLong(value);

    Py_XDECREF(value);
    return offset;
}

/* Compare one frame as Python tells it with the one at *at*, or with one that called it: Python hides some. */
static int
is_same(const Layout *by, PyObject *frame, const void **at, int first)
{
    PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
    long offset = last_instruction(frame);
    ptrdiff_t start;

    if (first) {
        file_at = attribute_at(code, "co_filename"), name_at = attribute_at(code, "co_name");
    }
    Py_DECREF(code); /* the frame holds it */
    while (can_be_read((uintptr_t)*at) && can_be_read((uintptr_t)*at + 64)) {
        if ((AT(uintptr_t, *at, by->code) & ~(uintptr_t)7) == (uintptr_t)code) {
            start = (ptrdiff_t)(AT(uint64_t, *at, by->instruction) - (uintptr_t)code - (uint64_t)offset);
            start_of_code = first ? start : start_of_code;
            *at = AT(void *, *at, by->previous);
            return start == start_of_code && start >= 64 && start <= 512 && file_at > 0 && name_at > 0;
        }
        *at = AT(void *, *at, by->previous);
    }
    return 0;
}

/* Whether a layout tells the frames of this thread as Python does. */
static int
is_right(const Layout *by, PyObject *frame)
{
    const void *at = current_frame(by);
    int right = 1;

    Py_INCREF(frame);
    for (int i = 0; right && frame != Py_None && i < MOST_FRAMES; i++) {
        PyObject *back = PyObject_GetAttrString(frame, "f_back");
        right = back != NULL && is_same(by, frame, &at, i == 0);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return right && !PyErr_Occurred();
}

PyDoc_STRVAR(frames_open_doc,
"frames_open(frame, on, /)\n"
"--\n\n"
"Take the lines of Python from now on, or no more.\n\n"
"Args:\n"
"    frame: the caller's.\n"
"    on: whether to take them.\n\n"
"Returns:\n"
"    Whether they can be taken by this version of Python.");

static PyObject *
frames_open(PyObject *module, PyObject *arguments)
{
    PyObject *frame, *code;
    int on, version = (int)(Py_Version >> 16);

    (void)module;
    layout = NULL;
    if (!PyArg_ParseTuple(arguments, "Op:frames_open", &frame, &on)) {
        return NULL;
    }
    code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
    code_type = Py_TYPE(code);
    Py_DECREF(code);
    for (size_t i = 0; on && i < sizeof LAYOUTS / sizeof *LAYOUTS; i++) {
        if (LAYOUTS[i].first <= version && version <= LAYOUTS[i].last && is_right(&LAYOUTS[i], frame)) {
            layout = &LAYOUTS[i];
        }
    }
    PyErr_Clear();
    return PyBool_FromLong(layout != NULL);
}

PyMethodDef frames_functions[] = {
    {"frames_open", frames_open, METH_VARARGS, frames_open_doc},
    {NULL, NULL, 0, NULL},
};
