/* A test double of libnvidia-ml.so.1, so that the real nvidia-ml-py runs on machines without a GPU.
 *
 * Every board is called "NVML TEST DOUBLE …" and the driver's version ends in "-double", so no report can take it for a real one.
 * Scripted by environment variables:
 *
 * Boards
 *   NVML_DOUBLE_GPUS             number of boards (default 1)
 *   NVML_DOUBLE_MIXED            boards have different names
 *   NVML_DOUBLE_MIG              MIG-d0ub1e00-0000-0000-0000-00000000000<i> is an instance of board i
 *   NVML_DOUBLE_MODULE           a Grace module: power answers at module scope too, NVML_DOUBLE_MODULE_EXTRA_MW (default 150000) above the GPU's
 * Power, a curve over the time t since the origin
 *   NVML_DOUBLE_ORIGIN_NS        time of the origin (default: the first call)
 *   NVML_DOUBLE_POWER_MW         power of board 0 at t = 0 (default 300000); board i draws i * 1000 mW more
 *   NVML_DOUBLE_SLOPE_MW_PER_S   ramp (default 0: constant)
 *   NVML_DOUBLE_SAW_MW, NVML_DOUBLE_SAW_US    sawtooth on top, from 0 to that height in each period (default none)
 *   NVML_DOUBLE_LOAD_FILE        power follows a load: lines of "<time in ns> <mW on top from then on>", appended while it is read
 * Sensors
 *   NVML_DOUBLE_NO_COUNTER, NVML_DOUBLE_NO_INSTANT, NVML_DOUBLE_NO_AVERAGE, NVML_DOUBLE_NO_USAGE   that reading is not supported
 *   NVML_DOUBLE_ZERO_COUNTER     the counter stands at 0
 *   NVML_DOUBLE_SENSOR_US        instant power is renewed at multiples of this time only (default 0: it is always new)
 *   NVML_DOUBLE_COUNTER_US       likewise the counter
 *   NVML_DOUBLE_RESET_US         the counter starts again from 0 at this time
 *   NVML_DOUBLE_COUNTER_LATENCY_US   time that a counter read takes (default 2400)
 *   NVML_DOUBLE_POWER_LATENCY_US     time that a power read takes (default 0)
 * State
 *   NVML_DOUBLE_CLOCKS_EVENT     bit mask of clock event reasons (default 0)
 *   NVML_DOUBLE_ECC              uncorrected errors (default: no ECC)
 *   NVML_DOUBLE_UTILIZATION      percent (default 50)
 *   NVML_DOUBLE_PIDS             processes on every board, separated by commas (default none)
 *   NVML_DOUBLE_XID_FILE         holds "<board> <xid>": an event once for each content
 * Failures
 *   NVML_DOUBLE_INIT_ERROR       error code of nvmlInit
 *   NVML_DOUBLE_LOST_FILE        while this file exists, every board is lost (error 15)
 *   NVML_DOUBLE_ERROR_FILE       while this file exists, calls on boards return the code in it
 * Time
 *   NVML_DOUBLE_CLOCK_FILE       a file of 8 bytes that holds the time in ns in place of CLOCK_MONOTONIC; latencies move it on
 *
 * Signatures and constants: NVIDIA's NVML API reference.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
enum { FIELD_MEMORY_TEMP = 82, FIELD_AVERAGE = 185, FIELD_INSTANT = 186, TYPE_UINT = 1, SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { EVENT_XID = 8, MAX_BOARDS = 16 };

typedef struct { int index; int is_mig; } device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int instance, compute; } process_t;
typedef struct { device_t *device; unsigned long long type, data; unsigned int instance, compute; } event_t;
typedef union { double d; unsigned int ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value_t;
typedef struct { unsigned int field_id, scope_id; long long timestamp, latency_us; unsigned int type; int ret; value_t value; } field_t;

static device_t boards[MAX_BOARDS], instances[MAX_BOARDS];
static int initialised = 0;
static long long origin_ns = 0;
static volatile long long *virtual_ns = NULL;

static long long number(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 0) : otherwise;
}
static int set(const char *name) { return getenv(name) != NULL; }
static int count(void) {
    long long n = number("NVML_DOUBLE_GPUS", 1);
    return n > MAX_BOARDS ? MAX_BOARDS : (int)n;
}

/* --- time --- */

static long long now_ns(void) {
    struct timespec t;
    if (virtual_ns) return *virtual_ns;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void pass(long long us) {
    if (us <= 0) return;
    if (virtual_ns) *virtual_ns += us * 1000;
    else usleep((useconds_t)us);
}
/* Seconds since the origin; with a renewal period, at the last renewal. */
static double elapsed_s(const char *period) {
    long long us = (now_ns() - origin_ns) / 1000, step = period ? number(period, 0) : 0;
    return step > 0 ? (us / step * step) / 1e6 : (now_ns() - origin_ns) / 1e9;
}

/* --- the curve: power and its integral, both exact --- */

static double whole_part(double x) { return (double)(long long)x; } /* x >= 0; spares linking libm */
static double saw_mw(double t) {
    double height = number("NVML_DOUBLE_SAW_MW", 0), period = number("NVML_DOUBLE_SAW_US", 0) / 1e6;
    return period > 0 ? height * (t / period - whole_part(t / period)) : 0;
}
static double saw_mj(double t) {
    double height = number("NVML_DOUBLE_SAW_MW", 0), period = number("NVML_DOUBLE_SAW_US", 0) / 1e6;
    if (period <= 0) return 0;
    double whole = whole_part(t / period), part = t / period - whole;
    return height * period * (whole / 2 + part * part / 2);
}
static void load(double t, double *mw, double *mj) {
    const char *path = getenv("NVML_DOUBLE_LOAD_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    long long at;
    double level, from = 0;
    *mw = *mj = 0;
    if (!file) return;
    while (fscanf(file, "%lld %lf", &at, &level) == 2) {
        double s = (at - origin_ns) / 1e9;
        if (s > t) break;
        *mj += *mw * (s - from);
        from = s;
        *mw = level;
    }
    *mj += *mw * (t - from);
    fclose(file);
}
static double power_mw(device_t *d, double t) {
    double mw, mj;
    load(t, &mw, &mj);
    return number("NVML_DOUBLE_POWER_MW", 300000) + 1000.0 * d->index + number("NVML_DOUBLE_SLOPE_MW_PER_S", 0) * t + saw_mw(t) + mw;
}
static double energy_mj(device_t *d, double t) {
    double mw, mj;
    load(t, &mw, &mj);
    return (number("NVML_DOUBLE_POWER_MW", 300000) + 1000.0 * d->index) * t + number("NVML_DOUBLE_SLOPE_MW_PER_S", 0) * t * t / 2 + saw_mj(t) + mj;
}

/* --- errors --- */

static int check(device_t *d) {
    const char *lost = getenv("NVML_DOUBLE_LOST_FILE"), *error = getenv("NVML_DOUBLE_ERROR_FILE");
    if (!initialised) return UNINITIALIZED;
    if (!d) return INVALID;
    if (error && access(error, F_OK) == 0) {
        int code = 999;
        FILE *file = fopen(error, "r");
        if (file && fscanf(file, "%d", &code) != 1) code = 999;
        if (file) fclose(file);
        return code;
    }
    return lost && access(lost, F_OK) == 0 ? LOST : OK;
}
#define CHECK(d) do { int bad = check(d); if (bad) return bad; } while (0)

int nvmlInitWithFlags(unsigned int flags) {
    const char *clock = getenv("NVML_DOUBLE_CLOCK_FILE");
    (void)flags;
    if (set("NVML_DOUBLE_INIT_ERROR")) return (int)number("NVML_DOUBLE_INIT_ERROR", 9);
    if (clock && !virtual_ns) {
        int file = open(clock, O_RDWR);
        void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED) return 999;
        virtual_ns = mapped;
    }
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
        case UNINITIALIZED: return "Uninitialized";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case TIMEOUT: return "Timeout";
        case LOST: return "GPU is lost";
        default: return "NVML test double error";
    }
}

/* --- boards --- */

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
int nvmlDeviceGetMigMode(device_t *d, unsigned int *now, unsigned int *next) {
    CHECK(d);
    *now = *next = set("NVML_DOUBLE_MIG");
    return set("NVML_DOUBLE_MIG") ? OK : NOT_SUPPORTED;
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
    CHECK(d);
    *m = (memory_t){80ULL << 30, 79ULL << 30, 1ULL << 30};
    return OK;
}
int nvmlDeviceGetPowerManagementLimit(device_t *d, unsigned int *mw) { (void)d; *mw = 650000; return OK; }
int nvmlDeviceGetPowerManagementDefaultLimit(device_t *d, unsigned int *mw) { (void)d; *mw = 700000; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(device_t *d, unsigned int *mw) { CHECK(d); *mw = 650000; return OK; }
int nvmlDeviceGetMaxClockInfo(device_t *d, unsigned int type, unsigned int *mhz) { (void)d; *mhz = type == 1 ? 1980 : 2619; return OK; }
int nvmlDeviceGetClockInfo(device_t *d, unsigned int type, unsigned int *mhz) { CHECK(d); *mhz = type == 1 ? 1755 : 2619; return OK; }
int nvmlDeviceGetTemperature(device_t *d, unsigned int sensor, unsigned int *celsius) { (void)sensor; CHECK(d); *celsius = 61; return OK; }
int nvmlDeviceGetUtilizationRates(device_t *d, utilization_t *rates) {
    CHECK(d);
    if (set("NVML_DOUBLE_MIG")) return NOT_SUPPORTED;
    *rates = (utilization_t){(unsigned)number("NVML_DOUBLE_UTILIZATION", 50), 20};
    return OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(device_t *d, unsigned long long *reasons) {
    CHECK(d);
    *reasons = (unsigned long long)number("NVML_DOUBLE_CLOCKS_EVENT", 0);
    return OK;
}
int nvmlDeviceGetTotalEccErrors(device_t *d, unsigned int kind, unsigned int counter, unsigned long long *errors) {
    (void)kind, (void)counter;
    CHECK(d);
    if (!set("NVML_DOUBLE_ECC")) return NOT_SUPPORTED;
    *errors = (unsigned long long)number("NVML_DOUBLE_ECC", 0);
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *d, unsigned int *n, process_t *processes) {
    const char *text = getenv("NVML_DOUBLE_PIDS");
    unsigned int room = *n, found = 0;
    CHECK(d);
    while (text && *text) {
        char *end;
        unsigned int pid = (unsigned)strtoul(text, &end, 10);
        if (end == text) break;
        if (processes && found < room) processes[found] = (process_t){pid, 1ULL << 30, ~0u, ~0u};
        found++;
        text = *end == ',' ? end + 1 : end;
    }
    *n = found;
    return found > (processes ? room : 0) ? TOO_SMALL : OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *d, unsigned int *n, process_t *processes) {
    (void)processes;
    CHECK(d);
    *n = 0;
    return OK;
}

/* --- critical errors --- */

static char told_event[64];
int nvmlEventSetCreate(void **events) { *events = told_event; return OK; }
int nvmlEventSetFree(void *events) { (void)events; return OK; }
int nvmlDeviceRegisterEvents(device_t *d, unsigned long long types, void *events) { (void)types, (void)events; return check(d); }
int nvmlEventSetWait_v2(void *events, event_t *event, unsigned int timeout_ms) {
    const char *path = getenv("NVML_DOUBLE_XID_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[64] = "";
    unsigned int board;
    unsigned long long xid;
    (void)events, (void)timeout_ms;
    if (file) {
        if (!fgets(line, sizeof line, file)) line[0] = 0;
        fclose(file);
    }
    if (!strcmp(line, told_event) || sscanf(line, "%u %llu", &board, &xid) != 2 || (int)board >= count()) return TIMEOUT;
    strcpy(told_event, line);
    *event = (event_t){&boards[board], EVENT_XID, xid, ~0u, ~0u};
    return OK;
}

/* --- power and energy --- */

int nvmlDeviceGetPowerUsage(device_t *d, unsigned int *mw) {
    CHECK(d);
    if (set("NVML_DOUBLE_NO_USAGE")) return NOT_SUPPORTED;
    *mw = (unsigned)power_mw(d, elapsed_s("NVML_DOUBLE_SENSOR_US"));
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(device_t *d, unsigned long long *mj) {
    long long latency_us = number("NVML_DOUBLE_COUNTER_LATENCY_US", 2400);
    CHECK(d);
    if (set("NVML_DOUBLE_NO_COUNTER")) return NOT_SUPPORTED;
    pass(latency_us / 2); /* the value is taken in the middle of the call */
    double t = elapsed_s("NVML_DOUBLE_COUNTER_US"), start = set("NVML_DOUBLE_RESET_US") ? number("NVML_DOUBLE_RESET_US", 0) / 1e6 : -1;
    double since = start >= 0 && t >= start ? energy_mj(d, t) - energy_mj(d, start) : 1e6 + energy_mj(d, t);
    *mj = set("NVML_DOUBLE_ZERO_COUNTER") ? 0 : (unsigned long long)since;
    pass(latency_us - latency_us / 2);
    return OK;
}
int nvmlDeviceGetFieldValues(device_t *d, int n, field_t *fields) {
    CHECK(d);
    pass(number("NVML_DOUBLE_POWER_LATENCY_US", 0));
    for (int i = 0; i < n; i++) {
        unsigned int scope = fields[i].scope_id;
        int of_gpu = scope == SCOPE_GPU && ((fields[i].field_id == FIELD_INSTANT && !set("NVML_DOUBLE_NO_INSTANT")) ||
                                            (fields[i].field_id == FIELD_AVERAGE && !set("NVML_DOUBLE_NO_AVERAGE")));
        int of_module = scope == SCOPE_MODULE && set("NVML_DOUBLE_MODULE") &&
                        (fields[i].field_id == FIELD_INSTANT || fields[i].field_id == FIELD_AVERAGE);
        fields[i].ret = of_gpu || of_module || fields[i].field_id == FIELD_MEMORY_TEMP ? OK : NOT_SUPPORTED;
        fields[i].type = TYPE_UINT;
        fields[i].timestamp = now_ns() / 1000;
        double t = elapsed_s("NVML_DOUBLE_SENSOR_US"), mw = power_mw(d, t);
        if (fields[i].field_id == FIELD_AVERAGE) { /* the mean of the last second */
            double from = t > 1 ? t - 1 : 0;
            if (t > from) mw = (energy_mj(d, t) - energy_mj(d, from)) / (t - from);
        }
        if (of_module) mw += number("NVML_DOUBLE_MODULE_EXTRA_MW", 150000);
        fields[i].value.ui = fields[i].field_id == FIELD_MEMORY_TEMP ? 68 : (unsigned)mw;
    }
    return OK;
}
