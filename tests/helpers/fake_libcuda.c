/* A libcuda.so.1 of one made-up device, for tests of the driver's probe. FAKE_CUDA names the call that fails
   (with CUDA_ERROR_UNKNOWN), "crash", "hang" or "empty" (no device). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int at(const char *call) {
    const char *how = getenv("FAKE_CUDA");
    if (how && !strcmp(call, "cuInit") && !strcmp(how, "crash")) *(volatile int *)0 = 1;
    if (how && !strcmp(call, "cuInit") && !strcmp(how, "hang")) for (;;) pause();
    return how && !strcmp(how, call) ? 999 : 0;
}
static int pushed;
int cuDriverGetVersion(int *version) { *version = 12060; return at("cuDriverGetVersion"); }
int cuInit(unsigned flags) { return flags ? 1 : at("cuInit"); }
int cuDeviceGetCount(int *count) {
    const char *how = getenv("FAKE_CUDA");
    *count = how && !strcmp(how, "empty") ? 0 : 2;
    return at("cuDeviceGetCount");
}
int cuDeviceGet(int *device, int number) { *device = 40 + number; return at("cuDeviceGet"); }
int cuDeviceGetName(char *name, int room, int device) {
    if (device != 40) return 101;
    strncpy(name, "Fake Orin", room);
    return at("cuDeviceGetName");
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 40) return 101;
    *value = attribute == 16 ? 8 : attribute == 18 ? 1 : attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return at("cuDeviceGetAttribute");
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device != 40) return 101;
    *context = (void *)0x7f1234567890;
    return at("cuDevicePrimaryCtxRetain");
}
int cuCtxPushCurrent_v2(void *context) { pushed = context == (void *)0x7f1234567890; return pushed ? 0 : 201; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    if (!pushed) return 201;
    *free = 5000000000;
    *total = 7600000000;
    return at("cuMemGetInfo_v2");
}
int cuGetErrorName(int code, const char **name) { *name = code == 999 ? "CUDA_ERROR_UNKNOWN" : "CUDA_ERROR_OTHER"; return 0; }
