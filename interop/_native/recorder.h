/* What the files of the recorder share: recorder.c, decode.c and frames.c.
 *
 * The recorder is a callback of CUPTI's. It writes down what the driver was asked for, in whatever thread, with the GIL or
 * without it: it calls no Python, waits for no other thread that waits for anything, and allocates once per thread. A
 * thread fills a buffer of its own; when that is full, the thread itself moves it to a file. The reader in Python is
 * interop/ledger/driver/recorder.py.
 */

#ifndef INTEROP_RECORDER_H
#define INTEROP_RECORDER_H

#include "native.h"

enum { MOST_WORDS = 4096, MOST_FRAMES = 64 };

/* The kinds of records, in the order of KINDS in recorder.c. The first three tell something about later records. */
enum {
    KIND_STACK, KIND_KERNEL, KIND_MODULE,
    KIND_LAUNCH, KIND_COPY, KIND_HOST_COPY, KIND_SET, KIND_HOST_SET, KIND_RECORD, KIND_WAIT, KIND_STREAM_DONE,
    KIND_EVENT_DONE, KIND_CONTEXT_DONE, KIND_ALLOC, KIND_FREE, KIND_HOST_ALLOC, KIND_HOST_FREE, KIND_STREAM_MADE,
    KIND_STREAM_GONE, KIND_EVENT_MADE, KIND_EVENT_GONE, KIND_GRAPH_LAUNCH, KIND_CAPTURE_BEGINS, KIND_CAPTURE_ENDS,
    KIND_HOST_FUNCTION, KIND_VALUE_WAIT, KIND_VALUE_WRITE, KIND_UNSEEN, KIND_UNLOAD, KIND_POOL_ALLOC, KIND_POOL_FREE,
    KIND_ARRAY, KIND_COUNT,
};

enum { NON_BLOCKING = 1, CAPTURING = 2, WALKED = 4, EXTRA = 8 };

/* The head of every record. Its words follow, then its bytes. */
typedef struct {
    uint32_t size; /* of all, in bytes; a multiple of 8 */
    uint8_t kind, flags;
    uint16_t call; /* which row of the table of calls; 0 for a note of Python's */
    uint64_t number, time, context, stream, a, b, c, d, stack; /* the time: nanoseconds of the real-time clock */
    uint32_t kernel, words;
} Record;

/* What CUPTI tells of a driver's call. */
typedef struct {
    int site; /* 0 at the entry, 1 at the exit */
    const char *name;
    const void *parameters;
    int *result;
    const char *symbol;
    void *context;
} CallData;

/* -- recorder.c -- */
void emit(Record *record, const uint64_t *words, const void *bytes, size_t length);
int first_time(uint64_t key);

/* -- decode.c -- */
const char *row_name(int index);
int row_of(const char *name);
int row_count(void);
void decode(Record *record, uint64_t *words, int row, const CallData *data);
int is_taken_at_entry(int row);
void forget_kernels(void);
void set_decoder(void *of_function, void *of_kernel, void *is_capturing, void *flags_of);

/* -- frames.c -- */
uint64_t stack_of_this_thread(void);

#endif
