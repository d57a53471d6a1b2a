/* The driver's calls about streams and events, each in the context that it needs. No function here uses Python objects.
 * All are called without the GIL, because a call may wait for another thread. That happens when a stream's launch queue
 * is full, and a thread waits in a launch on that stream: then a record on that stream, its wait for an event, and the
 * creation of any event wait as well.
 *
 * Each returns SUCCESS, FALL_BACK, or what the driver has answered.
 */

#include "native.h"

/* Make the context current that a stream needs, if it needs one; 0 if that fails. */
static int
enter(Place stream, void **before)
{
    int code = SUCCESS;

    if (stream.needs) {
        code = driver.get_context(before);
        if (code == SUCCESS && *before != pointer(stream.needs)) {
            code = driver.set_context(pointer(stream.needs));
        }
    }
    return code == SUCCESS;
}

/* Make the earlier context current again. Returns *code*, the answer of the call in between, if that succeeds. */
static int
leave(Place stream, void *before, int code)
{
    int failed = SUCCESS;

    if (stream.needs && before != pointer(stream.needs)) {
        failed = driver.set_context(before);
    }
    return failed == SUCCESS ? code : NOT_RESTORED + failed;
}

/* SUCCESS if a stream captures nothing, FALL_BACK if it captures or cannot be asked. */
int
captures_nothing(Place stream)
{
    void *before = NULL;
    int status = NOT_CAPTURING, code;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    code = leave(stream, before, driver.stream_is_capturing(pointer(stream.handle), &status));
    return code >= NOT_RESTORED || (code == SUCCESS && status == NOT_CAPTURING) ? code : FALL_BACK;
}

static int
record_on(Place stream, unsigned long long event)
{
    void *before = NULL;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    return leave(stream, before, driver.event_record(pointer(event), pointer(stream.handle)));
}

static int
wait_on(Place stream, unsigned long long event)
{
    void *before = NULL;

    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    return leave(stream, before, driver.stream_wait_event(pointer(stream.handle), pointer(event), 0));
}

/* Create an event in the stream's context. */
static int
make_event(Place stream, unsigned long long *event)
{
    void *before = NULL, *made = NULL;
    int code;

    stream.needs = stream.context;
    if (!enter(stream, &before)) {
        return FALL_BACK;
    }
    code = driver.event_create(&made, DISABLE_TIMING);
    *event = code == SUCCESS ? (uintptr_t)made : 0;
    code = leave(stream, before, code);
    return code == SUCCESS || code >= NOT_RESTORED ? code : FALL_BACK;
}

/* Record one stream's work so far in an event, which is created if it is 0, and make another stream wait for that event;
 * either may be NULL. The stream that waits is asked whether it captures, the recorded one if *ask*. *call* is the name of
 * the call that failed. */
int
record_then_wait(const Place *recorded, const Place *waiting, unsigned long long *event, int ask, const char **call)
{
    int code = SUCCESS;

    *call = NULL;
    if (waiting != NULL) {
        code = captures_nothing(*waiting);
    }
    if (code == SUCCESS && ask) {
        code = captures_nothing(*recorded);
    }
    if (code == SUCCESS && *event == 0) {
        code = make_event(*recorded, event);
    }
    if (code == SUCCESS && recorded != NULL) {
        *call = "cudaEventRecord";
        code = record_on(*recorded, *event);
    }
    if (code == SUCCESS && waiting != NULL) {
        *call = "cudaStreamWaitEvent";
        code = wait_on(*waiting, *event);
    }
    return code;
}

/* Query or synchronize, without breaking the capture of some other stream: in the capture modes "global" and "thread
 * local", CUDA forbids every query and synchronize, related or not, and invalidates the capture for one. */
int
ask(int (*call)(void *), unsigned long long handle)
{
    int mode = RELAXED, code, failed;

    if (driver.exchange_capture_mode(&mode) != SUCCESS) {
        return FALL_BACK;
    }
    code = call(pointer(handle));
    failed = driver.exchange_capture_mode(&mode);
    return failed == SUCCESS ? code : MODE_NOT_RESTORED + failed;
}

/* Query or synchronize a stream, if it captures nothing. */
int
ask_on(Place stream, int (*call)(void *))
{
    void *before = NULL;
    int code = captures_nothing(stream);

    if (code == SUCCESS) {
        code = enter(stream, &before) ? leave(stream, before, ask(call, stream.handle)) : FALL_BACK;
    }
    return code;
}
