/* A test double of libnvidia-ml.so.1, so that the real nvidia-ml-py runs on machines without a GPU.
 *
 * Every board is called "NVML TEST DOUBLE …", so no report can take it for a real one. Scripted by environment variables:
 *   NVML_DOUBLE_GPUS             number of boards (default 1)
 *   NVML_DOUBLE_POWER_MW         power of board 0 at the origin of the curve (default 300000); board i draws i * 1000 mW more
 *   NVML_DOUBLE_SLOPE_MW_PER_S   ramp (default 0: constant)
 *   NVML_DOUBLE_ORIGIN_NS        CLOCK_MONOTONIC time of the curve's origin (default: the first call)
 *   NVML_DOUBLE_NO_COUNTER, NVML_DOUBLE_NO_INSTANT, NVML_DOUBLE_NO_AVERAGE, NVML_DOUBLE_NO_USAGE   that reading is not supported
 *   NVML_DOUBLE_ZERO_COUNTER     the counter stands at 0
 *   NVML_DOUBLE_COUNTER_LATENCY_US   time that a counter read takes (default 0)
 *   NVML_DOUBLE_LOST_FILE        once this file exists, every board is lost (error 15)
 *   NVML_DOUBLE_INIT_ERROR       error code of nvmlInit
 *   NVML_DOUBLE_MIXED            boards have different names
 *   NVML_DOUBLE_MIG              MIG-d0ub1e00-0000-0000-0000-00000000000<i> is an instance of board i
 * Signatures and constants: NVIDIA's NVML API reference.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };
enum { FIELD_AVERAGE = 185, FIELD_INSTANT = 186, TYPE_UINT = 1 };
enum { MAX_BOARDS = 16 };

typedef struct { int index; int is_mig; } device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef union { double d; unsigned int ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value_t;
typedef struct { unsigned int field_id, scope_id; long long timestamp, latency_us; unsigned int type; int ret; value_t value; } field_t;

static device_t boards[MAX_BOARDS], instances[MAX_BOARDS];
static int initialised = 0;
static long long origin_ns = 0;

static long long number(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}
static int set(const char *name) { return getenv(name) != NULL; }
static int count(void) {
    long long n = number("NVML_DOUBLE_GPUS", 1);
    return n > MAX_BOARDS ? MAX_BOARDS : (int)n;
}
static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static double elapsed_s(void) { return (now_ns() - origin_ns) / 1e9; }
static double start_mw(device_t *d) { return number("NVML_DOUBLE_POWER_MW", 300000) + 1000.0 * d->index; }
static double power_mw(device_t *d) { return start_mw(d) + number("NVML_DOUBLE_SLOPE_MW_PER_S", 0) * elapsed_s(); }
static int check(device_t *d) {
    const char *lost = getenv("NVML_DOUBLE_LOST_FILE");
    if (!initialised) return UNINITIALIZED;
    if (!d) return INVALID;
    return lost && access(lost, F_OK) == 0 ? LOST : OK;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (set("NVML_DOUBLE_INIT_ERROR")) return (int)number("NVML_DOUBLE_INIT_ERROR", 9);
    if (!origin_ns) origin_ns = number("NVML_DOUBLE_ORIGIN_NS", now_ns());
    for (int i = 0; i < MAX_BOARDS; i++) boards[i] = (device_t){i, 0}, instances[i] = (device_t){i, 1};
    initialised++;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return initialised > 0 ? (initialised--, OK) : UNINITIALIZED; }
const char *nvmlErrorString(int code) {
    switch (code) {
        case OK: return "Success";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case LOST: return "GPU is lost";
        default: return "NVML test double error";
    }
}
int nvmlSystemGetDriverVersion(char *out, unsigned int size) { snprintf(out, size, "999.00-double"); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = (unsigned)count(); return initialised ? OK : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, device_t **d) {
    if ((int)i >= count()) return INVALID;
    *d = &boards[i];
    return OK;
}
static void uuid_of(device_t *d, char *out, unsigned int size) {
    snprintf(out, size, "%s-d0ub1e00-0000-0000-0000-%012d", d->is_mig ? "MIG" : "GPU", d->index);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **d) {
    char name[96];
    for (int i = 0; i < count(); i++) {
        uuid_of(&boards[i], name, sizeof name);
        if (!strcmp(name, uuid)) { *d = &boards[i]; return OK; }
        uuid_of(&instances[i], name, sizeof name);
        if (set("NVML_DOUBLE_MIG") && !strcmp(name, uuid)) { *d = &instances[i]; return OK; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t *mig, device_t **d) {
    if (!mig->is_mig) return INVALID;
    *d = &boards[mig->index];
    return OK;
}
int nvmlDeviceGetUUID(device_t *d, char *out, unsigned int size) {
    if (size < 41) return TOO_SMALL;
    uuid_of(d, out, size);
    return OK;
}
int nvmlDeviceGetName(device_t *d, char *out, unsigned int size) {
    if (set("NVML_DOUBLE_MIXED")) snprintf(out, size, "NVML TEST DOUBLE %c", 'A' + d->index);
    else snprintf(out, size, "NVML TEST DOUBLE");
    return OK;
}
int nvmlDeviceGetMemoryInfo(device_t *d, memory_t *m) {
    (void)d;
    *m = (memory_t){80ULL << 30, 79ULL << 30, 1ULL << 30};
    return OK;
}
int nvmlDeviceGetPowerManagementLimit(device_t *d, unsigned int *mw) { (void)d; *mw = 650000; return OK; }
int nvmlDeviceGetPowerManagementDefaultLimit(device_t *d, unsigned int *mw) { (void)d; *mw = 700000; return OK; }
int nvmlDeviceGetMaxClockInfo(device_t *d, unsigned int type, unsigned int *mhz) { (void)d; *mhz = type == 1 ? 1980 : 2619; return OK; }
int nvmlDeviceGetPowerUsage(device_t *d, unsigned int *mw) {
    int bad = check(d);
    if (bad) return bad;
    if (set("NVML_DOUBLE_NO_USAGE")) return NOT_SUPPORTED;
    *mw = (unsigned)power_mw(d);
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(device_t *d, unsigned long long *mj) {
    int bad = check(d);
    if (bad) return bad;
    if (set("NVML_DOUBLE_NO_COUNTER")) return NOT_SUPPORTED;
    usleep((useconds_t)number("NVML_DOUBLE_COUNTER_LATENCY_US", 0));
    double t = elapsed_s();
    *mj = set("NVML_DOUBLE_ZERO_COUNTER") ? 0 : 1000000ULL + (unsigned long long)(start_mw(d) * t + number("NVML_DOUBLE_SLOPE_MW_PER_S", 0) * t * t / 2);
    return OK;
}
int nvmlDeviceGetFieldValues(device_t *d, int n, field_t *fields) {
    int bad = check(d);
    if (bad) return bad;
    for (int i = 0; i < n; i++) {
        int instant = fields[i].field_id == FIELD_INSTANT && !set("NVML_DOUBLE_NO_INSTANT");
        int average = fields[i].field_id == FIELD_AVERAGE && !set("NVML_DOUBLE_NO_AVERAGE");
        fields[i].ret = instant || average ? OK : NOT_SUPPORTED;
        fields[i].type = TYPE_UINT;
        fields[i].timestamp = now_ns() / 1000;
        fields[i].value.ui = (unsigned)power_mw(d);
    }
    return OK;
}
