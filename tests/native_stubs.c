/* Stubs of the driver's entry points that the extension calls. Each stub writes down its call, and whether the caller
 * held the GIL; blocks, if the test says so; and returns the code that the test says. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* In the order of the addresses that the extension is bound to; it does not call CREATE. */
enum {
    RECORD, EVENT_QUERY, EVENT_SYNCHRONIZE, EVENT_DESTROY, WAIT, QUERY, SYNCHRONIZE, IS_CAPTURING, EXCHANGE,
    GET_CONTEXT, SET_CONTEXT, GET_STREAM_CONTEXT, GET_ID, CREATE, KINDS
};
enum { ANSWERS = 4, NOTED = 1000, PATIENCE = 3000 };

struct call {
    int kind, answer, gil_held, mode;
    uint64_t first, second, context; /* the arguments, and the context that was current */
    unsigned flags;
};

int (*gil_held)(void); /* PyGILState_Check */
struct call calls[NOTED];
int called;
int answers[KINDS][ANSWERS]; /* of the first call, the second, ...; the last one also of all later calls */
uint64_t only; /* 0, or the stream to whose calls `answers` applies; calls on other streams succeed */
int busy; /* the kind of call that blocks until `let_go`, or for PATIENCE milliseconds; -1 for none */
volatile int entered, let_go, gave_up;
uint64_t capturing; /* the stream that captures */
uint64_t last_event = 0xe00000;

int of_kind[KINDS]; /* how many calls there were of each kind */
static _Thread_local int mode, depth;
static _Thread_local uint64_t contexts[8];

void reset(int capture_mode) {
    called = entered = let_go = gave_up = 0;
    busy = -1;
    capturing = only = 0;
    mode = capture_mode;
    memset(answers, 0, sizeof answers);
    memset(of_kind, 0, sizeof of_kind);
}

int capture_mode(void) { return mode; }
int current(void) { return contexts[depth]; }
void make_current(uint64_t context) { contexts[depth = 0] = context; }

static int noted(int kind, uint64_t first, uint64_t second, unsigned flags) {
    int time = __atomic_fetch_add(&of_kind[kind], 1, __ATOMIC_SEQ_CST);
    int index = __atomic_fetch_add(&called, 1, __ATOMIC_SEQ_CST);
    int fails = !only || only == first || only == second;
    int answer = fails ? answers[kind][time < ANSWERS ? time : ANSWERS - 1] : 0;
    if (index < NOTED) {
        calls[index] = (struct call){kind, answer, gil_held(), mode, first, second, contexts[depth], flags};
    }
    if (kind == busy) {
        entered = 1;
        for (int left = PATIENCE; !let_go && left > 0; left--) {
            usleep(1000);
        }
        gave_up |= !let_go;
    }
    return answer;
}

int cuEventRecord(uint64_t event, uint64_t stream) { return noted(RECORD, event, stream, 0); }
int cuEventQuery(uint64_t event) { return noted(EVENT_QUERY, event, 0, 0); }
int cuEventSynchronize(uint64_t event) { return noted(EVENT_SYNCHRONIZE, event, 0, 0); }
int cuEventDestroy(uint64_t event) { return noted(EVENT_DESTROY, event, 0, 0); }
int cuStreamWaitEvent(uint64_t stream, uint64_t event, unsigned flags) { return noted(WAIT, stream, event, flags); }
int cuStreamQuery(uint64_t stream) { return noted(QUERY, stream, 0, 0); }
int cuStreamSynchronize(uint64_t stream) { return noted(SYNCHRONIZE, stream, 0, 0); }

int cuStreamIsCapturing(uint64_t stream, int *status) {
    *status = stream == capturing;
    return noted(IS_CAPTURING, stream, 0, 0);
}

int cuThreadExchangeStreamCaptureMode(int *other) {
    int answer = noted(EXCHANGE, *other, 0, 0), before = mode;
    if (!answer) {
        mode = *other;
        *other = before;
    }
    return answer;
}

int cuCtxGetCurrent(uint64_t *context) {
    *context = contexts[depth];
    return noted(GET_CONTEXT, 0, 0, 0);
}

int cuCtxSetCurrent(uint64_t context) {
    int answer = noted(SET_CONTEXT, context, 0, 0);
    if (!answer) {
        contexts[depth] = context;
    }
    return answer;
}

int cuEventCreate(uint64_t *event, unsigned flags) {
    int answer = noted(CREATE, last_event + 16, 0, flags);
    if (!answer) {
        *event = last_event += 16;
    }
    return answer;
}

int cuStreamGetCtx(uint64_t stream, uint64_t *context) {
    *context = stream >> 16;
    return noted(GET_STREAM_CONTEXT, stream, 0, 0);
}

int cuCtxGetId(uint64_t context, uint64_t *id) {
    *id = context;
    return noted(GET_ID, context, 0, 0);
}

/* What a thread without Python does: end tensors of DLPack one after the other, once all threads are there. */
struct job {
    void (*deleter)(void *);
    void **tensors;
    long count;
    int *missing; /* threads */
};

void *end_all(void *given) {
    struct job *job = given;
    __atomic_fetch_sub(job->missing, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(job->missing, __ATOMIC_SEQ_CST) > 0) {
    }
    for (long i = 0; i < job->count; i++) {
        job->deleter(job->tensors[i]);
    }
    return NULL;
}

/* Memory at STATED of native_stubs.py, in every process. */
__attribute__((constructor)) static void map_stated(void) {
    mmap((void *)0x30000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

/* Only the fallback in Python calls these two. They cannot fail. */
int cuCtxPushCurrent(uint64_t context) { return contexts[++depth] = context, 0; }
int cuCtxPopCurrent(void) { return depth--, 0; }
