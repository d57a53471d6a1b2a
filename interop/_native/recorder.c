/* The recorder of the driver's calls: the callback, the buffers, the file. recorder.h says how it works. */

#include "recorder.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *const KINDS[KIND_COUNT] = {
    "stack", "kernel", "module", "launch", "copy", "host copy", "set", "host set", "record", "wait", "stream done",
    "event done", "context done", "alloc", "free", "host alloc", "host free", "stream made", "stream gone", "event made",
    "event gone", "graph launch", "capture begins", "capture ends", "host function", "value wait", "value write",
    "unseen", "unload", "pool alloc", "pool free", "array",
};

enum { DRIVER = 1, RESOURCE = 3, MODULE_LOADED = 6, MOST_CALLS = 2048, ROOM = 1 << 18, SEEN = 1 << 12 };
#define NEVER UINT64_MAX

/* What a thread has written. The file has the same: a head of two words, the thread and the length, then the records. */
typedef struct Buffer {
    struct Buffer *next;
    atomic_flag busy;   /* while its thread writes to it, or while somebody moves it to the file */
    atomic_int is_used; /* by a thread that lives */
    uint64_t head[2];
    char data[ROOM];
    uint64_t seen[SEEN]; /* the stacks that were written, each at the place that its number gives */
} Buffer;

static _Atomic(Buffer *) buffers;
static _Thread_local Buffer *mine;
static _Thread_local int inside; /* the thread is in the callback: what it calls is not recorded */
static pthread_key_t end_of_thread;
static atomic_int is_open;
static atomic_ullong numbers, lost, end_of_file;
static atomic_ullong full_at; /* where the file could not be written to; NEVER: it takes more */
static atomic_int file = -1; /* -1 after the end: what a thread still holds then is dropped */
static pid_t process;
static uint16_t row_of_call[MOST_CALLS]; /* by CUPTI's number; 0: the call is not recorded */

static void
acquire(Buffer *buffer)
{
    while (atomic_flag_test_and_set_explicit(&buffer->busy, memory_order_acquire)) {
    }
}

static void
release(Buffer *buffer)
{
    atomic_flag_clear_explicit(&buffer->busy, memory_order_release);
}

static void
write_out(const uint64_t *head, const char *data)
{
    uint64_t start = atomic_fetch_add(&end_of_file, sizeof(uint64_t[2]) + head[1]), at = start;
    const char *parts[] = {(const char *)head, data};
    size_t lengths[] = {sizeof(uint64_t[2]), head[1]};

    for (int i = 0; i < 2; i++) {
        for (size_t done = 0; done < lengths[i];) {
            ssize_t written = pwrite(file, parts[i] + done, lengths[i] - done, (off_t)(at + done));
            if (written <= 0) {
                unsigned long long before = atomic_load(&full_at);
                while (start < before && !atomic_compare_exchange_weak(&full_at, &before, start)) {
                }
                atomic_fetch_add(&lost, 1);
                return;
            }
            done += (size_t)written;
        }
        at += lengths[i];
    }
}

/* Whether the file can be written to. A process that was forked has the file of the other one. */
static int
is_writable(void)
{
    return atomic_load(&file) >= 0 && atomic_load(&full_at) == NEVER && getpid() == process;
}

/* Move a buffer to the file. The caller has acquired it. */
static void
flush(Buffer *buffer)
{
    if (buffer->head[1] && is_writable()) {
        write_out(buffer->head, buffer->data);
    }
    buffer->head[1] = 0;
}

static void
thread_ends(void *buffer)
{
    acquire(buffer);
    flush(buffer);
    release(buffer);
    atomic_store(&((Buffer *)buffer)->is_used, 0);
    mine = NULL;
}

/* The buffer of this thread: one that an ended thread has left, or a new one. NULL if there is no memory. */
static Buffer *
buffer_of_thread(void)
{
    Buffer *buffer = mine;

    if (buffer != NULL) {
        return buffer;
    }
    for (buffer = atomic_load(&buffers); buffer != NULL; buffer = buffer->next) {
        int unused = 0;
        if (atomic_compare_exchange_strong(&buffer->is_used, &unused, 1)) {
            break;
        }
    }
    if (buffer == NULL && (buffer = calloc(1, sizeof *buffer)) != NULL) {
        atomic_store(&buffer->is_used, 1);
        buffer->next = atomic_load(&buffers);
        while (!atomic_compare_exchange_weak(&buffers, &buffer->next, buffer)) {
        }
    }
    if (buffer != NULL) {
        acquire(buffer);
        buffer->head[0] = (uint64_t)syscall(SYS_gettid);
        release(buffer);
        pthread_setspecific(end_of_thread, buffer);
    }
    return mine = buffer;
}

/* Whether this thread has not written the stack with this number, as far as it remembers. */
int
first_time(uint64_t key)
{
    Buffer *buffer = buffer_of_thread();
    uint64_t *place;

    if (buffer == NULL) {
        return 0;
    }
    place = &buffer->seen[(key >> 8) % SEEN];
    if (*place == key) {
        return 0;
    }
    *place = key;
    return 1;
}

/* Write a record of this thread, with its words and bytes. It takes its number and its time here. */
void
emit(Record *record, const uint64_t *words, const void *bytes, size_t length)
{
    Buffer *buffer = buffer_of_thread();
    size_t size = sizeof *record + record->words * sizeof *words + (length + 7) / 8 * 8;
    uint64_t head[2];
    struct timespec now;
    char *to;

    if (buffer == NULL || atomic_load(&full_at) != NEVER) {
        atomic_fetch_add(&lost, 1);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    record->size = (uint32_t)size;
    record->time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    acquire(buffer);
    if (buffer->head[1] + size > ROOM) {
        flush(buffer);
    }
    record->number = atomic_fetch_add(&numbers, 1) + 1; /* with the buffer acquired: who acquires all has all smaller numbers */
    to = size > ROOM ? malloc(size) : buffer->data + buffer->head[1];
    if (to == NULL) {
        atomic_fetch_add(&lost, 1);
        release(buffer);
        return;
    }
    memcpy(to, record, sizeof *record);
    if (record->words) {
        memcpy(to + sizeof *record, words, record->words * sizeof *words);
    }
    if (length) {
        memset(to + size - 8, 0, 8);
        memcpy(to + sizeof *record + record->words * sizeof *words, bytes, length);
    }
    if (size <= ROOM) {
        buffer->head[1] += size;
    } else { /* the machine code of a module */
        head[0] = buffer->head[0], head[1] = size;
        if (is_writable()) {
            write_out(head, to);
        }
        free(to);
    }
    release(buffer);
}

/* CUPTI calls this in the thread that calls the driver, when the call begins and when it ends. */
static void
callback(void *user, int domain, uint32_t call, const CallData *data)
{
    Record record;
    uint64_t words[MOST_WORDS];

    (void)user;
    if (inside || !atomic_load(&is_open)) {
        return;
    }
    if (domain == RESOURCE && call == MODULE_LOADED) {
        const void *const *of_module = ((const void *const *const *)data)[2]; /* its number, the length, the code */
        inside = 1;
        memset(&record, 0, sizeof record);
        record.kind = KIND_MODULE;
        record.a = (uint64_t)(uintptr_t)of_module[1];
        emit(&record, NULL, of_module[2], of_module[2] == NULL ? 0 : record.a);
        inside = 0;
        return;
    }
    if (domain == DRIVER && call < MOST_CALLS && row_of_call[call] &&
        (is_taken_at_entry(row_of_call[call]) ? data->site == 0 : data->site == 1 && *data->result == 0)) {
        inside = 1;
        memset(&record, 0, sizeof record);
        decode(&record, words, row_of_call[call], data);
        if (record.kind == KIND_UNLOAD) {
            forget_kernels();
        } else {
            record.stack = stack_of_this_thread();
            emit(&record, words, NULL, 0);
        }
        inside = 0;
    }
}

/* -- for Python ------------------------------------------------------------------------------------------------------ */

PyDoc_STRVAR(recorder_open_doc,
"recorder_open(file, driver, names, /)\n"
"--\n\n"
"Start to write down what the callback sees.\n\n"
"Args:\n"
"    file: the descriptor of an empty file, which stays open.\n"
"    driver: the addresses of cuFuncGetParamInfo, cuKernelGetParamInfo, cuStreamIsCapturing and cuStreamGetFlags.\n"
"    names: of the driver's calls, by CUPTI's numbers.\n\n"
"Returns:\n"
"    The address of the callback, the names of the kinds of records, the recorded names, and the numbers to enable.");

static PyObject *
recorder_open(PyObject *module, PyObject *arguments)
{
    PyObject *names, *kinds = NULL, *rows = NULL, *wanted = NULL;
    unsigned long long a, b, c, d;
    int descriptor;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "i(KKKK)O!:recorder_open", &descriptor, &a, &b, &c, &d, &PyList_Type, &names)) {
        return NULL;
    }
    kinds = PyTuple_New(KIND_COUNT), rows = PyTuple_New(row_count()), wanted = PyList_New(0);
    for (int i = 0; kinds != NULL && i < KIND_COUNT; i++) {
        PyTuple_SetItem(kinds, i, PyUnicode_FromString(KINDS[i]));
    }
    for (int i = 0; rows != NULL && i < row_count(); i++) {
        PyTuple_SetItem(rows, i, PyUnicode_FromString(row_name(i)));
    }
    memset(row_of_call, 0, sizeof row_of_call);
    for (Py_ssize_t i = 0; wanted != NULL && i < PyList_Size(names) && i < MOST_CALLS; i++) {
        PyObject *name = PyUnicode_AsASCIIString(PyList_GetItem(names, i)), *number;
        row_of_call[i] = name == NULL ? 0 : (uint16_t)row_of(PyBytes_AsString(name));
        Py_XDECREF(name);
        if (row_of_call[i]) {
            number = PyLong_FromSsize_t(i);
            if (number == NULL || PyList_Append(wanted, number)) {
                Py_CLEAR(wanted);
            }
            Py_XDECREF(number);
        }
    }
    if (!process && pthread_key_create(&end_of_thread, thread_ends)) {
        PyErr_SetString(PyExc_OSError, "no thread can be told of its end: pthread_key_create failed");
    }
    if (kinds == NULL || rows == NULL || wanted == NULL || PyErr_Occurred()) {
        Py_XDECREF(kinds), Py_XDECREF(rows), Py_XDECREF(wanted);
        return NULL;
    }
    process = getpid();
    for (Buffer *buffer = atomic_load(&buffers); buffer != NULL; buffer = buffer->next) {
        acquire(buffer);
        buffer->head[1] = 0;
        memset(buffer->seen, 0, sizeof buffer->seen);
        release(buffer);
    }
    set_decoder(pointer(a), pointer(b), pointer(c), pointer(d));
    forget_kernels();
    atomic_store(&file, descriptor), atomic_store(&lost, 0), atomic_store(&end_of_file, 0), atomic_store(&full_at, NEVER);
    atomic_store(&is_open, 1);
    return Py_BuildValue("KNNN", (unsigned long long)(uintptr_t)callback, kinds, rows, wanted);
}

PyDoc_STRVAR(recorder_flush_doc,
"recorder_flush(close, /)\n"
"--\n\n"
"Move all records so far to the file.\n\n"
"Args:\n"
"    close: whether nothing is to be recorded from now on.\n\n"
"Returns:\n"
"    How much of the file can be read, and how many records or buffers of records were lost.");

static PyObject *
recorder_flush(PyObject *module, PyObject *close)
{
    Buffer *first;
    unsigned long long end, full;

    (void)module;
    if (PyObject_IsTrue(close)) {
        atomic_store(&is_open, 0);
    }
    first = atomic_load(&buffers); /* a thread that comes now has larger numbers only */
    for (Buffer *buffer = first; buffer != NULL; buffer = buffer->next) {
        acquire(buffer);
    }
    for (Buffer *buffer = first; buffer != NULL; buffer = buffer->next) {
        flush(buffer);
    }
    if (!atomic_load(&is_open)) {
        atomic_store(&file, -1); /* Python may close it */
    }
    for (Buffer *buffer = first; buffer != NULL; buffer = buffer->next) {
        release(buffer);
    }
    end = atomic_load(&end_of_file), full = atomic_load(&full_at);
    return Py_BuildValue("KK", end < full ? end : full, atomic_load(&lost));
}

PyDoc_STRVAR(recorder_note_doc,
"recorder_note(kind, stream, a, b, c, d, /)\n"
"--\n\n"
"Write a record that Python makes, in the order of all records. Nothing happens if none is wanted.\n\n"
"Args:\n"
"    kind: its number.\n"
"    stream, a, b, c, d: its values.");

static PyObject *
recorder_note(PyObject *module, PyObject *arguments)
{
    Record record;
    unsigned long long stream, a, b, c, d;
    int kind;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "iKKKKK:recorder_note", &kind, &stream, &a, &b, &c, &d)) {
        return NULL;
    }
    if (atomic_load(&is_open)) {
        memset(&record, 0, sizeof record);
        record.kind = (uint8_t)kind, record.stream = stream;
        record.a = a, record.b = b, record.c = c, record.d = d;
        inside = 1;
        record.stack = stack_of_this_thread();
        emit(&record, NULL, NULL, 0);
        inside = 0;
    }
    Py_RETURN_NONE;
}

PyMethodDef recorder_functions[] = {
    {"recorder_flush", recorder_flush, METH_O, recorder_flush_doc},
    {"recorder_note", recorder_note, METH_VARARGS, recorder_note_doc},
    {"recorder_open", recorder_open, METH_VARARGS, recorder_open_doc},
    {NULL, NULL, 0, NULL},
};
