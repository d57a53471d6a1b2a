/* A libcupti and a driver that do nothing but call back. fire() stands for a call of the driver. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void (*Callback)(void *, int, uint32_t, const void *);

typedef struct {
    int site;
    const char *name;
    const void *parameters;
    void *result;
    const char *symbol;
    void *context;
    uint32_t context_number;
    uint64_t *correlation_data;
    uint32_t correlation;
} Data;

static const char *const NAMES[] = {
    NULL, "cuLaunchKernel", "cuLaunchKernel_ptsz", "cuLaunchKernelEx", "cuMemcpyAsync", "cuMemcpy", "cuMemsetD8Async",
    "cuMemsetD2D32Async", "cuEventRecord", "cuStreamWaitEvent", "cuStreamQuery", "cuMemAlloc_v2", "cuMemFree_v2",
    "cuStreamCreate", "cuStreamDestroy_v2", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuModuleUnload",
    "cuGetErrorString",
};
enum { COUNT = sizeof NAMES / sizeof *NAMES };

int taken, shared = 130001, without; /* set by the tests; *without*: the number of a name that is not known */
static Callback callback;
static char enabled[4][64];

int cuptiGetVersion(uint32_t *version) { *version = (uint32_t)shared; return 0; }
int cuptiGetResultString(int code, const char **text) { *text = code == 39 ? "taken" : "wrong"; return 0; }
int cuptiSubscribe(void **subscriber, Callback function, void *user) {
    (void)user;
    if (taken) return 39;
    callback = function, *subscriber = &callback;
    memset(enabled, 0, sizeof enabled);
    return 0;
}
int cuptiSubscribe_v2(void **subscriber, Callback function, void *user, const size_t *parameters) {
    return parameters[0] == 40 && ((const uint8_t *)parameters)[32] == 1 ? cuptiSubscribe(subscriber, function, user) : 1;
}
int cuptiUnsubscribe(void *subscriber) { callback = NULL; return subscriber != (void *)&callback; }
int cuptiEnableCallback(uint32_t on, void *subscriber, int domain, uint32_t number) {
    enabled[domain][number] = (char)on;
    return subscriber != (void *)&callback;
}
int cuptiGetCallbackName(int domain, uint32_t number, const char **name) {
    if (domain != 1 || number == 0 || number >= COUNT || (int)number == without) return 1;
    *name = NAMES[number];
    return 0;
}

/* Kernel 16 is a CUfunction of (pointer, int, struct of 24 bytes), 32 a CUkernel of (pointer). */
int cuFuncGetParamInfo(void *function, size_t index, size_t *offset, size_t *size) {
    static const size_t offsets[] = {0, 8, 16}, sizes[] = {8, 4, 24};
    if (function != (void *)16) return 400;
    if (index >= 3) return 1;
    *offset = offsets[index], *size = sizes[index];
    return 0;
}
int cuKernelGetParamInfo(void *kernel, size_t index, size_t *offset, size_t *size) {
    if (kernel != (void *)32) return 400;
    if (index >= 1) return 1;
    *offset = 0, *size = 8;
    return 0;
}
int cuStreamIsCapturing(void *stream, int *status) { *status = stream == (void *)0x300; return 0; }
int cuStreamGetFlags(void *stream, unsigned *flags) { *flags = stream == (void *)0x200; return 0; }

int fire(const char *name, const void *parameters, int result, const char *symbol) {
    for (uint32_t number = 1; number < COUNT; number++) {
        if (!strcmp(NAMES[number], name) && callback && enabled[1][number]) {
            Data data = {.name = name, .parameters = parameters, .result = &result, .symbol = symbol, .context = (void *)7};
            callback(NULL, 1, number, &data);
            data.site = 1;
            if (callback) callback(NULL, 1, number, &data);
            return 1;
        }
    }
    return 0;
}

void fire_many(const char *name, const void *parameters, int count) {
    while (count--) fire(name, parameters, 0, NULL);
}

void load_module(const char *code, size_t size) {
    struct { uint32_t number; size_t size; const char *code; } module = {1, size, code};
    const void *data[] = {NULL, NULL, &module};
    if (callback && enabled[3][6]) callback(NULL, 3, 6, data);
}
