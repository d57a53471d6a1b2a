/* The driver's calls: which ones are recorded, and where their parameters lie.
 *
 * The names and the parameters of a call never change: a call that takes others has another name. CUPTI's numbers of the
 * calls are asked for by name.
 */

#include "recorder.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Where something lies among the parameters, in bytes; NONE: the call has none. */
enum { NONE = -1 };
/* How a row is read, if not just by its offsets. */
enum {
    PLAIN,
    OF_ENTRY = 1,   /* when the call begins: another thread could be given the same address before the call ends */
    MADE = 2,       /* a is what the call has made: a pointer to it is the parameter */
    KERNEL = 4,     /* a is a kernel, and c the offset of the parameters, followed by the extra ones */
    CONFIGURED = 8, /* the stream is in the structure of cuLaunchKernelEx */
    WORDS_OF = 16,  /* c counts elements of b bytes */
    ROWS_OF = 32,   /* c is a width, b a pitch, d a height */
    MEMCPY_2D = 64,
    PITCHED = 128,  /* the size is *b times d */
};

typedef struct {
    const char *name;
    int8_t kind, stream, a, b, c, d;
    uint8_t how;
} Row;

/* The name for the per-thread default stream has a suffix: "_ptsz", or "_ptds" where the host waits. */
static const Row ROWS[] = {
    {"", KIND_ARRAY, NONE, NONE, NONE, NONE, NONE, PLAIN}, /* a note of Python's */
    {"cuLaunchKernel", KIND_LAUNCH, 40, 0, NONE, 48, NONE, KERNEL},
    {"cuLaunchCooperativeKernel", KIND_LAUNCH, 40, 0, NONE, 48, NONE, KERNEL},
    {"cuLaunchKernelEx", KIND_LAUNCH, 0, 8, NONE, 16, NONE, KERNEL | CONFIGURED},
    {"cuMemcpyAsync", KIND_COPY, 24, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyHtoDAsync_v2", KIND_COPY, 24, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyDtoHAsync_v2", KIND_COPY, 24, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyDtoDAsync_v2", KIND_COPY, 24, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyPeerAsync", KIND_COPY, 40, 0, 16, 32, 32, PLAIN},
    {"cuMemcpy2DAsync_v2", KIND_COPY, 8, 0, NONE, NONE, NONE, MEMCPY_2D},
    {"cuMemcpy", KIND_HOST_COPY, NONE, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyHtoD_v2", KIND_HOST_COPY, NONE, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyDtoH_v2", KIND_HOST_COPY, NONE, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyDtoD_v2", KIND_HOST_COPY, NONE, 0, 8, 16, 16, PLAIN},
    {"cuMemcpyPeer", KIND_HOST_COPY, NONE, 0, 16, 32, 32, PLAIN},
    {"cuMemcpy2D_v2", KIND_HOST_COPY, NONE, 0, NONE, NONE, NONE, MEMCPY_2D},
    {"cuMemcpy2DUnaligned_v2", KIND_HOST_COPY, NONE, 0, NONE, NONE, NONE, MEMCPY_2D},
    {"cuMemsetD8Async", KIND_SET, 24, 0, 1, 16, NONE, WORDS_OF},
    {"cuMemsetD16Async", KIND_SET, 24, 0, 2, 16, NONE, WORDS_OF},
    {"cuMemsetD32Async", KIND_SET, 24, 0, 4, 16, NONE, WORDS_OF},
    {"cuMemsetD2D8Async", KIND_SET, 40, 0, 1, 24, 32, ROWS_OF},
    {"cuMemsetD2D16Async", KIND_SET, 40, 0, 2, 24, 32, ROWS_OF},
    {"cuMemsetD2D32Async", KIND_SET, 40, 0, 4, 24, 32, ROWS_OF},
    {"cuMemsetD8_v2", KIND_HOST_SET, NONE, 0, 1, 16, NONE, WORDS_OF},
    {"cuMemsetD16_v2", KIND_HOST_SET, NONE, 0, 2, 16, NONE, WORDS_OF},
    {"cuMemsetD32_v2", KIND_HOST_SET, NONE, 0, 4, 16, NONE, WORDS_OF},
    {"cuMemsetD2D8_v2", KIND_HOST_SET, NONE, 0, 1, 24, 32, ROWS_OF},
    {"cuMemsetD2D16_v2", KIND_HOST_SET, NONE, 0, 2, 24, 32, ROWS_OF},
    {"cuMemsetD2D32_v2", KIND_HOST_SET, NONE, 0, 4, 24, 32, ROWS_OF},
    {"cuEventRecord", KIND_RECORD, 8, 0, NONE, NONE, NONE, PLAIN},
    {"cuEventRecordWithFlags", KIND_RECORD, 8, 0, 16, NONE, NONE, PLAIN},
    {"cuStreamWaitEvent", KIND_WAIT, 0, 8, 16, NONE, NONE, PLAIN},
    {"cuStreamSynchronize", KIND_STREAM_DONE, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamQuery", KIND_STREAM_DONE, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuEventSynchronize", KIND_EVENT_DONE, NONE, 0, NONE, NONE, NONE, PLAIN},
    {"cuEventQuery", KIND_EVENT_DONE, NONE, 0, NONE, NONE, NONE, PLAIN},
    {"cuCtxSynchronize", KIND_CONTEXT_DONE, NONE, NONE, NONE, NONE, NONE, PLAIN},
    {"cuCtxSynchronize_v2", KIND_CONTEXT_DONE, NONE, 0, NONE, NONE, NONE, PLAIN},
    {"cuMemAlloc_v2", KIND_ALLOC, NONE, 0, NONE, 8, NONE, MADE},
    {"cuMemAllocManaged", KIND_ALLOC, NONE, 0, NONE, 8, NONE, MADE},
    {"cuMemAllocPitch_v2", KIND_ALLOC, NONE, 0, 8, NONE, 24, MADE | PITCHED},
    {"cuMemAllocAsync", KIND_ALLOC, 16, 0, NONE, 8, NONE, MADE},
    {"cuMemAllocFromPoolAsync", KIND_ALLOC, 24, 0, NONE, 8, NONE, MADE},
    {"cuMemMap", KIND_ALLOC, NONE, 0, NONE, 8, NONE, PLAIN},
    {"cuMemFree_v2", KIND_FREE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuMemFreeAsync", KIND_FREE, 8, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuMemUnmap", KIND_FREE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuMemAllocHost_v2", KIND_HOST_ALLOC, NONE, 0, NONE, 8, NONE, MADE},
    {"cuMemHostAlloc", KIND_HOST_ALLOC, NONE, 0, NONE, 8, NONE, MADE},
    {"cuMemHostRegister_v2", KIND_HOST_ALLOC, NONE, 0, NONE, 8, NONE, PLAIN},
    {"cuMemFreeHost", KIND_HOST_FREE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuMemHostUnregister", KIND_HOST_FREE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuStreamCreate", KIND_STREAM_MADE, NONE, 0, 8, NONE, NONE, MADE},
    {"cuStreamCreateWithPriority", KIND_STREAM_MADE, NONE, 0, 8, NONE, NONE, MADE},
    {"cuGreenCtxStreamCreate", KIND_STREAM_MADE, NONE, 0, 16, NONE, NONE, MADE},
    {"cuStreamDestroy_v2", KIND_STREAM_GONE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuEventCreate", KIND_EVENT_MADE, NONE, 0, 8, NONE, NONE, MADE},
    {"cuIpcOpenEventHandle", KIND_EVENT_MADE, NONE, 0, NONE, NONE, NONE, MADE},
    {"cuEventDestroy_v2", KIND_EVENT_GONE, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuGraphLaunch", KIND_GRAPH_LAUNCH, 8, 0, NONE, NONE, NONE, PLAIN},
    {"cuStreamBeginCapture_v2", KIND_CAPTURE_BEGINS, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamBeginCaptureToGraph", KIND_CAPTURE_BEGINS, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamEndCapture", KIND_CAPTURE_ENDS, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuLaunchHostFunc", KIND_HOST_FUNCTION, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamAddCallback", KIND_HOST_FUNCTION, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamWaitValue32_v2", KIND_VALUE_WAIT, 0, 8, NONE, NONE, NONE, PLAIN},
    {"cuStreamWaitValue64_v2", KIND_VALUE_WAIT, 0, 8, NONE, NONE, NONE, PLAIN},
    {"cuStreamBatchMemOp_v2", KIND_VALUE_WAIT, 0, NONE, NONE, NONE, NONE, PLAIN},
    {"cuStreamWriteValue32_v2", KIND_VALUE_WRITE, 0, 8, NONE, NONE, NONE, PLAIN},
    {"cuStreamWriteValue64_v2", KIND_VALUE_WRITE, 0, 8, NONE, NONE, NONE, PLAIN},
    {"cuModuleUnload", KIND_UNLOAD, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    {"cuLibraryUnload", KIND_UNLOAD, NONE, 0, NONE, NONE, NONE, OF_ENTRY},
    /* What touches memory in a way that is not followed, or orders in one. */
    {"cuMemcpy3DAsync_v2", KIND_UNSEEN, 8, NONE, NONE, NONE, NONE, PLAIN},
    {"cuMemcpy3D_v2", KIND_UNSEEN, NONE, NONE, NONE, NONE, NONE, PLAIN},
    {"cuMemcpy3DPeerAsync", KIND_UNSEEN, 8, NONE, NONE, NONE, NONE, PLAIN},
    {"cuMemcpyBatchAsync", KIND_UNSEEN, 64, NONE, NONE, NONE, NONE, PLAIN},
    {"cuMemcpyBatchAsync_v2", KIND_UNSEEN, 56, NONE, NONE, NONE, NONE, PLAIN},
    {"cuCtxRecordEvent", KIND_UNSEEN, NONE, 8, NONE, NONE, NONE, PLAIN},
    {"cuCtxWaitEvent", KIND_UNSEEN, NONE, 8, NONE, NONE, NONE, PLAIN},
};

enum { ROW_COUNT = sizeof ROWS / sizeof *ROWS, PER_THREAD_ROW = 1 << 12 };

static struct {
    int (*of_function)(void *, size_t, size_t *, size_t *);
    int (*of_kernel)(void *, size_t, size_t *, size_t *);
    int (*is_capturing)(void *, int *);
    int (*flags_of)(void *, unsigned int *);
} questions;

static atomic_int captures; /* how many are going on, or more */

void
set_decoder(void *of_function, void *of_kernel, void *is_capturing, void *flags_of)
{
    *(void **)&questions.of_function = of_function;
    *(void **)&questions.of_kernel = of_kernel;
    *(void **)&questions.is_capturing = is_capturing;
    *(void **)&questions.flags_of = flags_of;
    atomic_store(&captures, 0);
}

int
row_count(void)
{
    return ROW_COUNT;
}

const char *
row_name(int index)
{
    return ROWS[index].name;
}

/* The row of a call, with PER_THREAD_ROW added if 0 means the per-thread default stream to it; 0 if it is not recorded. */
int
row_of(const char *name)
{
    for (int i = 1; i < ROW_COUNT; i++) {
        size_t length = strlen(ROWS[i].name);
        if (!strncmp(name, ROWS[i].name, length)) {
            if (!name[length]) {
                return i;
            }
            if (!strcmp(name + length, "_ptsz") || !strcmp(name + length, "_ptds")) {
                return i | PER_THREAD_ROW;
            }
        }
    }
    return 0;
}

int
is_taken_at_entry(int row)
{
    return ROWS[row & (PER_THREAD_ROW - 1)].how & OF_ENTRY;
}

/* -- kernels: where their parameters lie ----------------------------------------------------------------------------- */

enum { KERNEL_SLOTS = 1 << 14, MOST_PARAMETERS = 512 };

typedef struct {
    _Atomic(void *) handle;
    atomic_int generation; /* the one that it was asked in; 0 before */
    uint32_t id;
    int words; /* the 8-byte words among the parameters; -1 if they could not be asked for */
    uint32_t *offsets; /* of each word among all parameters, and which parameter it belongs to, and where in that */
    uint16_t *parameters, *within;
} Kernel;

static Kernel kernels[KERNEL_SLOTS];
static atomic_int generation = 1;
static atomic_uint kernel_ids;
static atomic_flag learning = ATOMIC_FLAG_INIT;

/* A module was unloaded: the address of one of its kernels may come back as that of another one. */
void
forget_kernels(void)
{
    atomic_fetch_add(&generation, 1);
}

static Kernel *
slot_of(void *handle)
{
    size_t at = (size_t)(((uintptr_t)handle >> 4) * 0x9E3779B97F4A7C15ull >> 50);

    for (int i = 0; i < KERNEL_SLOTS; i++, at = (at + 1) % KERNEL_SLOTS) {
        void *there = atomic_load(&kernels[at].handle);
        if (there == NULL) {
            void *empty = NULL;
            there = atomic_compare_exchange_strong(&kernels[at].handle, &empty, handle) ? handle : empty;
        }
        if (there == handle) {
            return &kernels[at];
        }
    }
    return NULL;
}

static int
ask_for_words(Kernel *kernel, int (*info)(void *, size_t, size_t *, size_t *))
{
    static uint32_t offsets[MOST_WORDS];
    static uint16_t parameters[MOST_WORDS], within[MOST_WORDS];
    size_t offset, size;
    int count = 0, code = 1;

    for (size_t i = 0; info != NULL && i < MOST_PARAMETERS && (code = info(kernel->handle, i, &offset, &size)) == 0; i++) {
        for (size_t at = 0; at + 8 <= size && count < MOST_WORDS; at += 8, count++) {
            offsets[count] = (uint32_t)(offset + at), parameters[count] = (uint16_t)i, within[count] = (uint16_t)at;
        }
    }
    if (info == NULL || (code == 400 && count == 0)) { /* 400: no handle of this type */
        return -1;
    }
    free(kernel->offsets), free(kernel->parameters), free(kernel->within);
    kernel->offsets = malloc(count * sizeof *offsets + 1);
    kernel->parameters = malloc(count * sizeof *parameters + 1);
    kernel->within = malloc(count * sizeof *within + 1);
    if (kernel->offsets == NULL || kernel->parameters == NULL || kernel->within == NULL) {
        return -1;
    }
    memcpy(kernel->offsets, offsets, count * sizeof *offsets);
    memcpy(kernel->parameters, parameters, count * sizeof *parameters);
    memcpy(kernel->within, within, count * sizeof *within);
    return count;
}

/* What is known of a kernel; NULL if there are too many. At the first time, its name and offsets are recorded. */
static Kernel *
known_kernel(void *handle, const char *symbol)
{
    Kernel *kernel = slot_of(handle);
    int now = atomic_load(&generation);

    if (kernel == NULL || atomic_load(&kernel->generation) == now) {
        return kernel;
    }
    while (atomic_flag_test_and_set(&learning)) {
    }
    if (atomic_load(&kernel->generation) != now) {
        Record record = {.kind = KIND_KERNEL};
        uint64_t words[MOST_WORDS];

        kernel->words = ask_for_words(kernel, questions.of_function);
        if (kernel->words < 0) {
            kernel->words = ask_for_words(kernel, questions.of_kernel);
        }
        kernel->id = atomic_fetch_add(&kernel_ids, 1) + 1;
        record.kernel = kernel->id;
        record.words = kernel->words < 0 ? 0 : (uint32_t)kernel->words;
        for (uint32_t i = 0; i < record.words; i++) {
            words[i] = kernel->offsets[i];
        }
        emit(&record, words, symbol, symbol == NULL ? 0 : strlen(symbol));
        atomic_store(&kernel->generation, now);
    }
    atomic_flag_clear(&learning);
    return kernel;
}

static void
walk(Record *record, uint64_t *words, const char *symbol, char **parameters, void **extra)
{
    Kernel *kernel = known_kernel(pointer(record->a), symbol);

    record->kernel = kernel == NULL ? 0 : kernel->id;
    if (parameters != NULL) {
        if (kernel == NULL || kernel->words < 0) {
            return;
        }
        for (int i = 0; i < kernel->words; i++) {
            memcpy(words + i, parameters[kernel->parameters[i]] + kernel->within[i], 8);
        }
        record->words = (uint32_t)kernel->words;
    } else if (extra != NULL) { /* pairs: 1, the buffer; 2, its size; in the end 0 */
        const char *buffer = NULL;
        size_t size = 0;
        for (int i = 0; i < 8 && extra[i] != NULL; i += 2) {
            buffer = extra[i] == pointer(1) ? extra[i + 1] : buffer;
            size = extra[i] == pointer(2) ? *(size_t *)extra[i + 1] : size;
        }
        record->words = buffer == NULL ? 0 : (uint32_t)(size / 8 < MOST_WORDS ? size / 8 : MOST_WORDS);
        memcpy(words, buffer, record->words * sizeof *words);
        record->flags |= EXTRA;
    }
    record->flags |= WALKED;
}

/* -- one call -------------------------------------------------------------------------------------------------------- */

#define FIELD(type, offset) (*(type const *)((const char *)data->parameters + (offset)))

static void
decode_2d(Record *record, const CallData *data)
{
    const uint64_t *copy = FIELD(uint64_t *, 0); /* CUDA_MEMCPY2D: memory of type 1 is the host's, 3 an array */
    uint64_t lines = copy[15] ? copy[15] - 1 : 0;

    record->a = (uint32_t)copy[9] == 1 ? copy[10] : copy[11];
    record->b = (uint32_t)copy[2] == 1 ? copy[3] : copy[4];
    record->a += copy[7] + copy[8] * copy[13];
    record->b += copy[0] + copy[1] * copy[6];
    record->c = lines * copy[13] + copy[14];
    record->d = lines * copy[6] + copy[14];
    if ((uint32_t)copy[9] == 3 || (uint32_t)copy[2] == 3) {
        record->kind = KIND_UNSEEN;
    }
}

/* Read a call's parameters. */
void
decode(Record *record, uint64_t *words, int index, const CallData *data)
{
    const Row *row = &ROWS[index & (PER_THREAD_ROW - 1)];
    uint64_t null = index & PER_THREAD_ROW ? PER_THREAD : LEGACY;

    record->kind = (uint8_t)row->kind;
    record->call = (uint16_t)(index & (PER_THREAD_ROW - 1));
    record->context = (uintptr_t)data->context;
    if (row->a != NONE) {
        record->a = row->how & MADE ? *FIELD(uint64_t *, row->a) : FIELD(uint64_t, row->a);
    }
    if (row->stream != NONE) {
        record->stream = row->how & CONFIGURED ? *(const uint64_t *)(FIELD(char *, 0) + 32) : FIELD(uint64_t, row->stream);
    }
    if (row->stream != NONE ? !record->stream : row->kind == KIND_HOST_COPY || row->kind == KIND_HOST_SET) {
        record->stream = null;
    }
    if (row->how & KERNEL) {
        char **parameters = FIELD(char **, row->c);
        /* cuLaunchCooperativeKernel takes no extra ones */
        void **extra = strncmp(row->name, "cuLaunchCoop", 12) ? FIELD(void **, row->c + 8) : NULL;
        walk(record, words, data->symbol, parameters, extra);
        record->b = row->how & CONFIGURED ? *(const uint32_t *)(FIELD(char *, 0) + 48) : 0; /* how many attributes */
        record->c = !strncmp(row->name, "cuLaunchCoop", 12);
    } else if (row->how & MEMCPY_2D) {
        decode_2d(record, data);
    } else if (row->how & (WORDS_OF | ROWS_OF)) {
        uint64_t width = FIELD(uint64_t, row->c) * (uint64_t)row->b;
        uint64_t rows = row->how & ROWS_OF ? FIELD(uint64_t, row->d) : 1;
        record->c = rows ? (rows - 1) * (row->how & ROWS_OF ? FIELD(uint64_t, 8) : 0) + width : 0;
    } else if (row->how & PITCHED) {
        record->c = *FIELD(uint64_t *, row->b) * FIELD(uint64_t, row->d);
    } else {
        record->b = row->b == NONE ? 0 : row->kind == KIND_COPY || row->kind == KIND_HOST_COPY ? FIELD(uint64_t, row->b)
                                                                                              : FIELD(uint32_t, row->b);
        record->c = row->c == NONE ? 0 : FIELD(uint64_t, row->c);
        record->d = row->d == NONE ? 0 : FIELD(uint64_t, row->d);
    }
    if (row->kind == KIND_CAPTURE_BEGINS) {
        atomic_fetch_add(&captures, 1);
    }
    if (record->stream > PER_THREAD) {
        unsigned int flags = 0;
        int status = 0;
        if (questions.flags_of != NULL && questions.flags_of(pointer(record->stream), &flags) == 0 && (flags & 1)) {
            record->flags |= NON_BLOCKING;
        }
        if (atomic_load(&captures) > 0 && questions.is_capturing != NULL &&
            questions.is_capturing(pointer(record->stream), &status) == 0 && status) {
            record->flags |= CAPTURING;
        }
    }
    if (row->kind == KIND_CAPTURE_ENDS) {
        atomic_fetch_sub(&captures, 1);
    }
}
