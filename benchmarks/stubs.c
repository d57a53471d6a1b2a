/* CUDA calls that do nothing and succeed, for counting the instructions around them; and for tests of the baseline. */

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_DUMP_STATS
#endif

int calls[16];
int fails_with;

static int counted(int which) {
    calls[which]++;
    return fails_with;
}

int cudaStreamQuery(void *stream) { return (void)stream, counted(0); }
int cudaStreamSynchronize(void *stream) { return (void)stream, counted(1); }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return (void)stream, (void)event, (void)flags, counted(2);
}
int cudaEventRecord(void *event, void *stream) { return (void)event, (void)stream, counted(3); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return *event = (void *)64, (void)flags, counted(4); }
int cudaEventDestroy(void *event) { return (void)event, counted(5); }

/* The driver's entry points, as the native module is given them: whatever else it asks for succeeds, with the answer 0.
 * The context and its id are those of instructions.py. */
int cuStreamGetCtx(void *stream, void **context) { return *context = (void *)32, (void)stream, 0; }
int cuCtxGetId(void *context, unsigned long long *id) { return *id = 1, (void)context, 0; }
int cuStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = 0; }
int cuThreadExchangeStreamCaptureMode(int *mode) { return (void)mode, 0; }
int succeed(void) { return 0; }

/* callgrind writes what it has counted since the last mark. */
void mark(void) { CALLGRIND_DUMP_STATS; }
