/* A CUDA runtime and driver without a card, for PyTorch's device guards and allocator to ask.
 *
 * Whatever only changes a card's state succeeds and does nothing; whatever is asked is answered for
 * one card of 80 GiB that is idle. Nothing can be computed: tensors must be shapes alone
 * (tests/fake_cuda/pretended.py). One library stands for both, preloaded under the driver's name.
 */
#include <stddef.h>
#include <string.h>

#define DOES_NOTHING(name) int name() { return 0; }
#define ANSWERS(name, type, value) int name(type *answer) { *answer = (value); return 0; }

static int stream_or_event;
static const size_t memory_bytes = (size_t)80 << 30;
enum { compute_capability_major = 75, compute_capability_minor = 76, multiprocessors = 16 };

ANSWERS(cudaGetDevice, int, 0)
ANSWERS(cudaGetDeviceCount, int, 1)
ANSWERS(cudaDriverGetVersion, int, 12080)
ANSWERS(cudaRuntimeGetVersion, int, 12080)
ANSWERS(cudaStreamCreateWithFlags, void *, &stream_or_event)
ANSWERS(cudaStreamCreateWithPriority, void *, &stream_or_event)
ANSWERS(cudaEventCreateWithFlags, void *, &stream_or_event)
ANSWERS(cudaDeviceCanAccessPeer, int, 0)
ANSWERS(cuDriverGetVersion, int, 12080)
ANSWERS(cuCtxGetCurrent, void *, &stream_or_event)

DOES_NOTHING(cudaSetDevice)
DOES_NOTHING(cudaGetLastError)
DOES_NOTHING(cudaPeekAtLastError)
DOES_NOTHING(cudaDeviceSynchronize)
DOES_NOTHING(cudaFree)
DOES_NOTHING(cudaStreamQuery)
DOES_NOTHING(cudaStreamSynchronize)
DOES_NOTHING(cudaStreamWaitEvent)
DOES_NOTHING(cudaEventRecord)
DOES_NOTHING(cudaEventRecordWithFlags)
DOES_NOTHING(cudaEventQuery)
DOES_NOTHING(cudaEventSynchronize)
DOES_NOTHING(cudaEventDestroy)
DOES_NOTHING(cudaThreadExchangeStreamCaptureMode)
DOES_NOTHING(cuInit)
DOES_NOTHING(cuCtxSetCurrent)

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return 0;
}

int cudaStreamIsCapturing(void *stream, int *status)
{
    *status = 0;
    return 0;
}

int cudaStreamGetCaptureInfo_v2(void *stream, int *status)
{
    *status = 0;
    return 0;
}

int cudaStreamGetPriority(void *stream, int *priority)
{
    *priority = 0;
    return 0;
}

int cudaMemGetInfo(size_t *available, size_t *total)
{
    *available = *total = memory_bytes;
    return 0;
}

int cudaPointerGetAttributes(void *attributes, const void *pointer)
{
    memset(attributes, 0, 32);
    return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == compute_capability_major   ? 9
             : attribute == compute_capability_minor ? 0
             : attribute == multiprocessors          ? 132
                                                     : 1;
    return 0;
}

/* Of the runtime's 1,032 bytes: the name, and where CUDA 12 keeps memory and compute capability. */
int cudaGetDeviceProperties_v2(char *properties, int device)
{
    memset(properties, 0, 1032);
    strcpy(properties, "a pretended card");
    memcpy(properties + 288, &memory_bytes, sizeof memory_bytes);
    *(int *)(properties + 360) = 9;
    return 0;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    *flags = 0;
    *active = 1;
    return 0;
}

int cuGetErrorString(int error, const char **text)
{
    *text = "";
    return 0;
}
