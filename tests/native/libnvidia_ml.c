/*
 * A small libnvidia-ml.so.1 for tests: NVML's C interface, as far as the plugin reads it, on hardware that does not
 * exist. Without further instructions the node has 8 A100 of 40 GB, each cut into 7 MIG devices 1g.5gb.
 *
 * FAKE_NVML_NODE may name a text file with other instructions, one a line:
 *
 *     answer FUNCTION CODE                      the function returns CODE and does nothing
 *     gpu UUID MINOR PCI_BUS_ID MIG PENDING     replaces the node's GPUs; MIG and PENDING are 0 or 1
 *     gi ID PROFILE_ID START                    a GPU instance of the GPU above; those of its devices need no line
 *     mig UUID GI CI PROFILE_ID START CI_SLICES the next MIG device of the GPU above
 *     hole                                      a MIG index of the GPU above that no device has
 *     recovery ACTION                           the recovery action of the GPU above, 0 where nothing is said
 *     lost                                      the GPU above has fallen off the bus
 *     process PID WORK GI CI                    a process on the GPU above; WORK is 0 compute, 1 graphics, 2 MPS, and
 *                                               GI and CI are -1 for one that holds the GPU as a whole
 *     hardware SOCKET                           where changes are asked for
 *
 * The file is read by the first nvmlInit and again whenever the GPUs are counted or a GPU is looked up by its UUID. A
 * driver that goes away while the library is initialised (answer nvmlInitWithFlags CODE) stays away until the library
 * is shut down and initialised.
 *
 * Events are lines "TYPE GPU_INDEX DATA GI CI" (TYPE an event bit, -1 for "not this fine") appended to a file of the
 * same name with .events behind it. An event set hears of those appended after it was made.
 *
 * Changes are carried out by a program that listens at the socket (see hardware.py): it takes a line, writes the node's
 * file anew and answers "CODE NUMBER". Without one, nothing may be changed.
 *
 * With -DOLD_DRIVER the functions that came with later drivers do not exist.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15 };

enum { MAX_GPUS = 16, MAX_MIG = 7, MAX_GI = 15, MAX_CI = 8, MAX_ANSWERS = 16, MAX_PROCESSES = 16, PROFILE_INDICES = 18,
       RECOVERY_ACTION = 230, POLL_MS = 5 };

static const unsigned long long SUPPORTED_EVENTS = 0xFF9F;

/* What the interface passes by reference. */

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct { unsigned long long total, free, used; } Memory;

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gi_slices, ci_slices;
    unsigned long long memory_mb;
} Attributes;

typedef struct { unsigned start, size; } Placement;

typedef struct {
    void *device;
    unsigned id, profile_id;
    Placement placement;
} GpuInstanceInfo;

typedef struct {
    void *device, *instance;
    unsigned id, profile_id;
    Placement placement;
} ComputeInstanceInfo;

typedef struct {
    unsigned id, slices, instances, multiprocessors, copy_engines, decoders, encoders, jpeg, ofa;
} ComputeProfileInfo;

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gi, ci;
} ProcessInfo;

typedef struct {
    unsigned id, p2p, slices, instances, multiprocessors, copy_engines, decoders, encoders, jpeg, ofa;
    unsigned long long memory_mb;
} ProfileInfo;

typedef struct {
    unsigned version, id, p2p, slices, instances, multiprocessors, copy_engines, decoders, encoders, jpeg, ofa;
    unsigned long long memory_mb;
    char name[96];
} ProfileInfoV2;

typedef struct {
    void *device;
    unsigned long long type, data;
    unsigned gi, ci;
} EventData;

typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type, code;
    unsigned long long value;
} FieldValue;

/* The card. */

static const char PRODUCT[] = "NVIDIA A100-SXM4-40GB";
static const unsigned long long MEMORY = 40960ULL << 20;
static const unsigned PCI_DEVICE_ID = 0x20B010DE, SMS_PER_SLICE = 14;

typedef struct {
    unsigned index, id, slices, instances, memory_mb, decoders, media, size;
    const char *name;
} Profile;

static const Profile PROFILES[] = {
    {0, 19, 1, 7, 4864, 0, 0, 1, "MIG 1g.5gb"},   {1, 14, 2, 3, 9856, 1, 0, 2, "MIG 2g.10gb"},
    {2, 9, 3, 2, 19968, 2, 0, 4, "MIG 3g.20gb"},  {3, 5, 4, 1, 19968, 2, 0, 4, "MIG 4g.20gb"},
    {4, 0, 7, 1, 40192, 5, 1, 8, "MIG 7g.40gb"},  {7, 20, 1, 1, 4864, 1, 1, 1, "MIG 1g.5gb+me"},
    {9, 15, 1, 4, 9856, 1, 0, 2, "MIG 1g.10gb"},
};

/* The node. */

typedef struct {
    char uuid[80];
    unsigned gi, ci, ci_slices;
    const Profile *profile; /* none: a hole */
    Placement placement;
} Mig;

/* By its id; each compute instance that it may have has an address. */
typedef struct {
    const Profile *profile; /* none: it is not there */
    Placement placement;
    char compute[MAX_CI];
} Instance;

typedef struct { unsigned work; ProcessInfo info; } Process;

typedef struct {
    char uuid[80], bus_id[16];
    unsigned minor, mig, pending, devices, recovery, lost, processes;
    Mig device[MAX_MIG];
    Instance instance[MAX_GI];
    Process process[MAX_PROCESSES];
} Gpu;

static Gpu gpus[MAX_GPUS];
static unsigned gpu_count;
static struct { char function[64]; int code; } answers[MAX_ANSWERS];
static unsigned answer_count;
static char socket_path[sizeof ((struct sockaddr_un *)0)->sun_path];
static unsigned initialised;
static int gone;

static const Profile *profile_of(unsigned id) {
    for (size_t i = 0; i < sizeof PROFILES / sizeof *PROFILES; i++)
        if (PROFILES[i].id == id) return &PROFILES[i];
    return NULL;
}

static void add_instance(Gpu *gpu, unsigned gi, const Profile *profile, Placement placement) {
    if (gi < MAX_GI) gpu->instance[gi].profile = profile, gpu->instance[gi].placement = placement;
}

static void default_node(void) {
    static const unsigned buses[] = {0x10, 0x20, 0x90, 0xa0};
    for (gpu_count = 0; gpu_count < 8; gpu_count++) {
        Gpu *gpu = &gpus[gpu_count];
        memset(gpu, 0, sizeof *gpu);
        snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-a1000000-0000-4000-8000-%012x", gpu_count);
        snprintf(gpu->bus_id, sizeof gpu->bus_id, "0000:%02X:%02X.0", buses[gpu_count / 2], 0x1c + gpu_count % 2);
        gpu->minor = gpu_count;
        gpu->mig = gpu->pending = 1;
        for (gpu->devices = 0; gpu->devices < 7; gpu->devices++) {
            Mig *mig = &gpu->device[gpu->devices];
            snprintf(mig->uuid, sizeof mig->uuid, "MIG-a1000000-0000-4000-8000-%08x%04x", gpu_count, gpu->devices);
            mig->gi = 7 + gpu->devices;
            mig->ci_slices = 1;
            mig->profile = profile_of(19);
            mig->placement = (Placement){gpu->devices, 1};
            add_instance(gpu, mig->gi, mig->profile, mig->placement);
        }
    }
}

static void read_line(const char *line) {
    char name[64];
    unsigned id;
    int code;
    Gpu *gpu = gpu_count ? &gpus[gpu_count - 1] : NULL;
    if (sscanf(line, "answer %63s %d", name, &code) == 2 && answer_count < MAX_ANSWERS) {
        strcpy(answers[answer_count].function, name);
        answers[answer_count++].code = code;
    } else if (!strncmp(line, "gpu ", 4) && gpu_count < MAX_GPUS) {
        gpu = &gpus[gpu_count++];
        memset(gpu, 0, sizeof *gpu);
        sscanf(line, "gpu %79s %u %15s %u %u", gpu->uuid, &gpu->minor, gpu->bus_id, &gpu->mig, &gpu->pending);
    } else if (gpu && !strncmp(line, "recovery ", 9)) {
        sscanf(line, "recovery %u", &gpu->recovery);
    } else if (gpu && !strncmp(line, "lost", 4)) {
        gpu->lost = 1;
    } else if (!strncmp(line, "hardware ", 9)) {
        if (strlen(line) < sizeof socket_path) sscanf(line, "hardware %s", socket_path);
    } else if (gpu && !strncmp(line, "gi ", 3)) {
        Placement placement;
        unsigned gi;
        const Profile *profile = NULL;
        if (sscanf(line, "gi %u %u %u", &gi, &id, &placement.start) == 3 && (profile = profile_of(id)))
            placement.size = profile->size, add_instance(gpu, gi, profile, placement);
    } else if (gpu && gpu->processes < MAX_PROCESSES && !strncmp(line, "process ", 8)) {
        Process *process = &gpu->process[gpu->processes++];
        sscanf(line, "process %u %u %d %d", &process->info.pid, &process->work, (int *)&process->info.gi,
               (int *)&process->info.ci);
    } else if (gpu && gpu->devices < MAX_MIG && (!strncmp(line, "mig ", 4) || !strncmp(line, "hole", 4))) {
        Mig *mig = &gpu->device[gpu->devices++];
        if (sscanf(line, "mig %79s %u %u %u %u %u", mig->uuid, &mig->gi, &mig->ci, &id, &mig->placement.start,
                   &mig->ci_slices) == 6 && (mig->profile = profile_of(id))) {
            mig->placement.size = mig->profile->size;
            add_instance(gpu, mig->gi, mig->profile, mig->placement);
        }
    }
}

static void read_node(void) {
    const char *path = getenv("FAKE_NVML_NODE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    gpu_count = answer_count = 0;
    *socket_path = 0;
    while (file && fgets(line, sizeof line, file)) read_line(line);
    if (file) fclose(file);
    if (!gpu_count) default_node();
}

static int told(const char *function) {
    for (unsigned i = 0; i < answer_count; i++)
        if (!strcmp(answers[i].function, function)) return answers[i].code;
    return SUCCESS;
}

static int answer(const char *function) { return !initialised ? UNINITIALIZED : gone ? gone : told(function); }

static int text(char *out, unsigned length, const char *value) {
    if (!out) return INVALID_ARGUMENT;
    if (strlen(value) >= length) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static Gpu *gpu_of(void *handle) {
    for (unsigned i = 0; i < gpu_count; i++)
        if (handle == &gpus[i]) return &gpus[i];
    return NULL;
}

static Mig *mig_of(void *handle) {
    for (unsigned i = 0; i < gpu_count; i++)
        for (unsigned j = 0; j < gpus[i].devices; j++)
            if (handle == &gpus[i].device[j] && gpus[i].device[j].profile) return &gpus[i].device[j];
    return NULL;
}

static Gpu *owner(const Mig *mig) {
    for (unsigned i = 0; i < gpu_count; i++)
        if (mig >= gpus[i].device && mig < gpus[i].device + MAX_MIG) return &gpus[i];
    return NULL;
}

/* What every function begins with, and those about a whole GPU or a MIG device. */
#define BEGIN int code = answer(__func__); if (code != SUCCESS) return code
#define GPU BEGIN; Gpu *gpu = gpu_of(handle); if (!gpu) return INVALID_ARGUMENT; if (gpu->lost) return GPU_IS_LOST
#define MIG BEGIN; Mig *mig = mig_of(handle); if (!mig) return INVALID_ARGUMENT

/* The interface. */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!initialised) {
        read_node();
        gone = SUCCESS;
        int code = told(__func__);
        if (code != SUCCESS) return code;
    }
    initialised++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned length) { BEGIN; return text(out, length, "580.0.1"); }
int nvmlSystemGetNVMLVersion(char *out, unsigned length) { BEGIN; return text(out, length, "13.580.0.1"); }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { BEGIN; *out = 13000; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *out) {
    if (initialised && !gone) read_node(), gone = told("nvmlInitWithFlags");
    BEGIN;
    *out = gpu_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    BEGIN;
    if (index >= gpu_count) return INVALID_ARGUMENT;
    *out = &gpus[index];
    return gpus[index].lost ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    if (initialised && !gone) read_node();
    BEGIN;
    for (unsigned i = 0; i < gpu_count; i++) {
        *out = &gpus[i];
        if (!strcmp(gpus[i].uuid, uuid)) return gpus[i].lost ? GPU_IS_LOST : SUCCESS;
        for (unsigned j = 0; j < gpus[i].devices; j++) {
            *out = &gpus[i].device[j];
            if (gpus[i].device[j].profile && !strcmp(gpus[i].device[j].uuid, uuid))
                return gpus[i].lost ? GPU_IS_LOST : SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *out, unsigned length) {
    BEGIN;
    Gpu *gpu = gpu_of(handle);
    Mig *mig = mig_of(handle);
    return gpu ? text(out, length, gpu->uuid) : mig ? text(out, length, mig->uuid) : INVALID_ARGUMENT;
}

int nvmlDeviceGetPciInfo_v3(void *handle, PciInfo *out) {
    GPU;
    memset(out, 0, sizeof *out);
    strcpy(out->bus_id_legacy, gpu->bus_id);
    snprintf(out->bus_id, sizeof out->bus_id, "0000%s", gpu->bus_id);
    sscanf(gpu->bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    out->pci_device_id = PCI_DEVICE_ID;
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(void *handle, unsigned *out) { GPU; *out = gpu->minor; return SUCCESS; }

int nvmlDeviceGetName(void *handle, char *out, unsigned length) { GPU; return text(out, length, PRODUCT); }

int nvmlDeviceGetMemoryInfo(void *handle, Memory *out) {
    BEGIN;
    Gpu *gpu = gpu_of(handle);
    Mig *mig = mig_of(handle);
    if (!gpu && !mig) return INVALID_ARGUMENT;
    if (gpu && gpu->lost) return GPU_IS_LOST;
    unsigned long long total = mig ? (unsigned long long)mig->profile->memory_mb << 20 : MEMORY;
    *out = (Memory){total, total, 0};
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    GPU;
    *major = 8, *minor = 0;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    GPU;
    *current = gpu->mig, *pending = gpu->pending;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *out) { GPU; *out = gpu->mig ? MAX_MIG : 0; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **out) {
    GPU;
    if (index >= MAX_MIG || !gpu->mig) return INVALID_ARGUMENT;
    if (index >= gpu->devices || !gpu->device[index].profile) return NOT_FOUND;
    *out = &gpu->device[index];
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *out) { MIG; *out = mig->gi; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *out) { MIG; *out = mig->ci; return SUCCESS; }

int nvmlDeviceGetAttributes_v2(void *handle, Attributes *out) {
    MIG;
    const Profile *p = mig->profile;
    *out = (Attributes){SMS_PER_SLICE * mig->ci_slices, p->slices, p->decoders, 0,           p->media,
                        p->media,                       p->slices, mig->ci_slices, p->memory_mb};
    return SUCCESS;
}

/* Health. */

typedef struct {
    unsigned long long masks[MAX_GPUS];
    long offset;
} EventSet;

static FILE *open_events(void) {
    const char *node = getenv("FAKE_NVML_NODE");
    char path[4096];
    if (!node || (size_t)snprintf(path, sizeof path, "%s.events", node) >= sizeof path) return NULL;
    return fopen(path, "r");
}

/* The next event for this set, if there is one. */
static int next_event(EventSet *set, EventData *out) {
    FILE *file = open_events();
    char line[128];
    int found = 0, gi, ci;
    unsigned gpu;
    if (!file) return 0;
    fseek(file, set->offset, SEEK_SET);
    while (!found && fgets(line, sizeof line, file) && strchr(line, '\n')) {
        set->offset = ftell(file);
        if (sscanf(line, "%llu %u %llu %d %d", &out->type, &gpu, &out->data, &gi, &ci) != 5 || gpu >= MAX_GPUS) continue;
        out->device = &gpus[gpu];
        out->gi = gi, out->ci = ci;
        found = (set->masks[gpu] & out->type) != 0;
    }
    fclose(file);
    return found;
}

int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *out) {
    GPU;
    *out = SUPPORTED_EVENTS;
    return SUCCESS;
}

int nvmlEventSetCreate(void **out) {
    BEGIN;
    EventSet *set = calloc(1, sizeof *set);
    FILE *file = open_events();
    if (file) {
        fseek(file, 0, SEEK_END);
        set->offset = ftell(file);
        fclose(file);
    }
    *out = set;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(void *handle, unsigned long long mask, EventSet *set) {
    GPU;
    if (mask & ~SUPPORTED_EVENTS) return NOT_SUPPORTED;
    set->masks[gpu - gpus] |= mask;
    return SUCCESS;
}

int nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_ms) {
    for (unsigned waited = 0;; waited += POLL_MS) {
        BEGIN;
        if (next_event(set, out)) return SUCCESS;
        for (unsigned i = 0; i < gpu_count; i++)
            if (gpus[i].lost && set->masks[i]) return GPU_IS_LOST;
        if (waited >= timeout_ms) return TIMEOUT;
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
}

int nvmlEventSetFree(EventSet *set) {
    BEGIN;
    free(set);
    return SUCCESS;
}

/* A driver before R565 has the function, but knows no recovery action. */
int nvmlDeviceGetFieldValues(void *handle, int count, FieldValue *values) {
    GPU;
    for (int i = 0; i < count; i++) {
        values[i].code = NOT_SUPPORTED;
#ifndef OLD_DRIVER
        if (values[i].field != RECOVERY_ACTION) continue;
        values[i].type = 1; /* unsigned int */
        values[i].value = gpu->recovery;
        values[i].code = SUCCESS;
#endif
    }
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(void *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failure) {
    GPU;
    *corrected = *uncorrected = *pending = *failure = 0;
    return SUCCESS;
}

/* Measurements: of an idle card. */

typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version, supported; } GpmSupport;

static int processes(void *handle, unsigned work, unsigned *count, ProcessInfo *out) {
    Gpu *gpu = gpu_of(handle);
    Mig *mig = mig_of(handle);
    unsigned room = *count;
    if (!gpu && !mig) return INVALID_ARGUMENT;
    if (!gpu) gpu = owner(mig);
    if (gpu->lost) return GPU_IS_LOST;
    *count = 0;
    for (unsigned i = 0; i < gpu->processes; i++) {
        const Process *p = &gpu->process[i];
        if (p->work != work || (mig && (p->info.gi != mig->gi || p->info.ci != mig->ci))) continue;
        if (*count < room) out[*count] = p->info;
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *out) {
    BEGIN;
    return processes(handle, 0, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *out) {
    BEGIN;
    return processes(handle, 1, count, out);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *out) {
    BEGIN;
    return processes(handle, 2, count, out);
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) { GPU; *out = 62000; return SUCCESS; }

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
    (void)sensor;
    GPU;
    *out = 31;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *out) {
    GPU;
    *out = clock == 2 ? 1215 : 210; /* the memory's, or the multiprocessors' */
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *out) { GPU; *out = 1000; return SUCCESS; }

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *out) {
    GPU;
    if (gpu->mig) return NOT_SUPPORTED;
    *out = (Utilization){0, 0};
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, unsigned long long *out) {
    (void)kind, (void)counter;
    GPU;
    *out = 0;
    return SUCCESS;
}

/* An A100 has no performance monitoring. */
int nvmlGpmQueryDeviceSupport(void *handle, GpmSupport *out) { GPU; out->supported = 0; return SUCCESS; }

/* Profiles. */

static int profile_at(unsigned index, ProfileInfo *out, const char **name) {
    for (size_t i = 0; i < sizeof PROFILES / sizeof *PROFILES; i++) {
        const Profile *p = &PROFILES[i];
        if (p->index != index) continue;
        *out = (ProfileInfo){p->id, 0, p->slices, p->instances, SMS_PER_SLICE * p->slices, p->slices, p->decoders,
                             0, p->media, p->media, p->memory_mb};
        *name = p->name;
        return SUCCESS;
    }
    return index < PROFILE_INDICES ? NOT_SUPPORTED : INVALID_ARGUMENT;
}

int nvmlDeviceGetGpuInstanceProfileInfo(void *handle, unsigned index, ProfileInfo *out) {
    const char *name;
    GPU;
    return profile_at(index, out, &name);
}

int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *handle, unsigned id, Placement *out, unsigned *count) {
    GPU;
    const Profile *p = profile_of(id);
    if (!p) return NOT_SUPPORTED;
    unsigned room = p->size == 1 ? 7 : p->size == 2 && p->slices == 2 ? 6 : 8, found = room / p->size;
    if (p->id == 5) found = 1; /* 4 of 7 slices: only from the start */
    if (out && *count < found) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; out && i < found; i++) out[i] = (Placement){i * p->size, p->size};
    *count = found;
    return SUCCESS;
}

#ifndef OLD_DRIVER

int nvmlDeviceGetGpuInstanceProfileInfoV(void *handle, unsigned index, ProfileInfoV2 *out) {
    ProfileInfo info;
    const char *name;
    GPU;
    if (out->version != (sizeof *out | 2 << 24)) return INVALID_ARGUMENT;
    code = profile_at(index, &info, &name);
    if (code != SUCCESS) return code;
    memcpy(&out->id, &info, offsetof(ProfileInfo, memory_mb));
    out->memory_mb = info.memory_mb;
    return text(out->name, sizeof out->name, name);
}

/* The GPU of a GPU instance's handle, or of a compute instance's. */
static Gpu *holder(const void *handle, unsigned *gi) {
    for (unsigned i = 0; i < gpu_count; i++)
        for (*gi = 0; *gi < MAX_GI; ++*gi) {
            const Instance *instance = &gpus[i].instance[*gi];
            if (instance->profile && (const char *)handle >= (const char *)instance &&
                (const char *)handle < (const char *)(instance + 1))
                return &gpus[i];
        }
    return NULL;
}

static const Mig *compute_of(const Gpu *gpu, unsigned gi, unsigned ci) {
    for (unsigned i = 0; i < gpu->devices; i++)
        if (gpu->device[i].profile && gpu->device[i].gi == gi && gpu->device[i].ci == ci) return &gpu->device[i];
    return NULL;
}

#define INSTANCE \
    unsigned gi; \
    BEGIN; \
    Gpu *gpu = holder(handle, &gi); \
    if (!gpu) return INVALID_ARGUMENT; \
    if (gpu->lost) return GPU_IS_LOST
#define COMPUTE \
    INSTANCE; \
    unsigned ci = (char *)handle - gpu->instance[gi].compute; \
    const Mig *mig = compute_of(gpu, gi, ci); \
    if (!mig) return NOT_FOUND

int nvmlDeviceGetGpuInstanceById(void *handle, unsigned id, void **out) {
    GPU;
    if (!gpu->mig) return NOT_SUPPORTED;
    if (id >= MAX_GI || !gpu->instance[id].profile) return NOT_FOUND;
    *out = &gpu->instance[id];
    return SUCCESS;
}

int nvmlDeviceGetGpuInstances(void *handle, unsigned id, void **out, unsigned *count) {
    GPU;
    if (!profile_of(id)) return NOT_SUPPORTED;
    *count = 0;
    for (unsigned gi = 0; gi < MAX_GI; gi++)
        if (gpu->instance[gi].profile && gpu->instance[gi].profile->id == id) out[(*count)++] = &gpu->instance[gi];
    return SUCCESS;
}

int nvmlGpuInstanceGetInfo(void *handle, GpuInstanceInfo *out) {
    INSTANCE;
    *out = (GpuInstanceInfo){gpu, gi, gpu->instance[gi].profile->id, gpu->instance[gi].placement};
    return SUCCESS;
}

int nvmlGpuInstanceGetComputeInstanceById(void *handle, unsigned id, void **out) {
    INSTANCE;
    if (id >= MAX_CI || !compute_of(gpu, gi, id)) return NOT_FOUND;
    *out = &gpu->instance[gi].compute[id];
    return SUCCESS;
}

int nvmlComputeInstanceGetInfo_v2(void *handle, ComputeInstanceInfo *out) {
    COMPUTE;
    unsigned slices = mig->ci_slices;
    *out = (ComputeInstanceInfo){gpu, &gpu->instance[gi], ci, slices == 7 ? 4 : slices - 1, {0, slices}};
    return SUCCESS;
}

/* Changes, and what follows from the rules of the hardware. */

static int hardware(unsigned *out, const char *format, ...) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[256];
    va_list values;
    int code = NO_PERMISSION, length, file;
    unsigned number = 0;
    ssize_t got;
    if (!*socket_path || (file = socket(AF_UNIX, SOCK_STREAM, 0)) < 0) return code;
    va_start(values, format);
    length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    strcpy(address.sun_path, socket_path);
    if (!connect(file, (struct sockaddr *)&address, sizeof address) && write(file, line, length) == length &&
        (got = read(file, line, sizeof line - 1)) > 0) {
        line[got] = 0;
        sscanf(line, "%d %u", &code, &number);
        read_node();
    }
    close(file);
    if (out) *out = number;
    return code;
}

int nvmlDeviceSetMigMode(void *handle, unsigned mode, unsigned *status) {
    GPU;
    return hardware(status, "mig-mode %s %u\n", gpu->uuid, mode);
}

int nvmlDeviceGetGpuInstanceRemainingCapacity(void *handle, unsigned id, unsigned *out) {
    GPU;
    return hardware(out, "remaining %s %u\n", gpu->uuid, id);
}

int nvmlDeviceCreateGpuInstanceWithPlacement(void *handle, unsigned id, const Placement *at, void **out) {
    unsigned gi;
    GPU;
    code = hardware(&gi, "create-gi %s %u %u %u\n", gpu->uuid, id, at->start, at->size);
    if (code == SUCCESS) *out = &gpu->instance[gi];
    return code;
}

int nvmlGpuInstanceDestroy(void *handle) { INSTANCE; return hardware(NULL, "destroy-gi %s %u\n", gpu->uuid, gi); }

int nvmlGpuInstanceGetComputeInstanceProfileInfo(void *handle, unsigned index, unsigned engines,
                                                 ComputeProfileInfo *out) {
    INSTANCE;
    if (engines) return INVALID_ARGUMENT;
    *out = (ComputeProfileInfo){.id = index};
    return hardware(&out->slices, "compute-profile %s %u %u\n", gpu->uuid, gi, index);
}

int nvmlGpuInstanceCreateComputeInstanceWithPlacement(void *handle, unsigned id, const Placement *at, void **out) {
    unsigned ci;
    INSTANCE;
    code = hardware(&ci, "create-ci %s %u %u %u %u\n", gpu->uuid, gi, id, at->start, at->size);
    if (code == SUCCESS) *out = &gpu->instance[gi].compute[ci];
    return code;
}

int nvmlGpuInstanceCreateComputeInstance(void *handle, unsigned id, void **out) {
    unsigned ci;
    INSTANCE;
    code = hardware(&ci, "create-ci %s %u %u\n", gpu->uuid, gi, id);
    if (code == SUCCESS) *out = &gpu->instance[gi].compute[ci];
    return code;
}

int nvmlComputeInstanceDestroy(void *handle) {
    COMPUTE;
    return hardware(NULL, "destroy-ci %s %u %u\n", gpu->uuid, gi, ci);
}

#endif
