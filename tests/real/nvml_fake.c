/* A driver's library that does as FAKE_NVML says: words with commas between.
   3090, 4090, pro6000, a100mig   which card (one; the first word)
   count=N                        so many of them
   lost                           card 1 has fallen off the bus
   nan, wrapped, xid, throttled   odd values
   idle                           nothing is computed
   While the file named by FAKE_NVML_FELL is there, card 1 answers nothing, as one that fell off the bus while it was in use.
   While the file named by FAKE_NVML_HANGS is there, every reading hangs; while that of FAKE_NVML_GONE is there, the driver is unloaded.
   Built with -DOLD it lacks what drivers before 510 lack. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, LOST = 15 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory2_t;
typedef struct { char old[16]; unsigned domain, bus, device, id, system; char bus_id[32]; } pci_t;
typedef struct { unsigned gpu, memory; } busy_t;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned field, scope; long long at, latency; unsigned type, ret; union { double d; unsigned ui; u64 ull; long long sll; } value; } field_t;
typedef struct { void *device; u64 type, data; unsigned gpu_instance, compute_instance; } event_t;

static int has(const char *word) { const char *all = getenv("FAKE_NVML"); return all && strstr(all, word) != NULL; }
static int there(const char *variable) { const char *path = getenv(variable); return path && access(path, F_OK) == 0; }
static void maybe_hang(void) { while (there("FAKE_NVML_HANGS")) usleep(50000); }
static int gone(void) { maybe_hang(); return there("FAKE_NVML_GONE"); }
static int initialised = 0;
static unsigned count(void) { const char *at = getenv("FAKE_NVML"); at = at ? strstr(at, "count=") : NULL; return at ? (unsigned)atoi(at + 6) : 1; }
static int home(void) { return has("3090") || has("4090"); }
static u64 gib(double n) { return (u64)(n * 1073741824.0); }
static double size(void) { return has("pro6000") ? 95.6 : has("a100mig") ? 80.0 : 24.0; }
#define CARD(h) ((long)(h) % 100)
static int fell(long card) { return CARD(card) == 1 && there("FAKE_NVML_FELL"); }

int nvmlInitWithFlags(unsigned flags) { if (gone()) return DRIVER_NOT_LOADED; initialised = 1; return OK; }
int nvmlShutdown(void) { initialised = 0; return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { if (gone()) return DRIVER_NOT_LOADED; strcpy(text, "580.65.06"); return initialised ? OK : UNINITIALIZED; }
int nvmlDeviceGetCount_v2(unsigned *n) { if (gone()) return DRIVER_NOT_LOADED; *n = count(); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, long *card) { *card = index + 100; return index == 1 && has("lost") ? LOST : OK; }
int nvmlDeviceGetName(long card, char *text, unsigned n) {
  strcpy(text, has("3090") ? "NVIDIA GeForce RTX 3090" : has("4090") ? "NVIDIA GeForce RTX 4090" : has("pro6000") ? "NVIDIA RTX PRO 6000 Blackwell Workstation Edition" : "NVIDIA A100-SXM4-80GB");
  return OK;
}
int nvmlDeviceGetUUID(long card, char *text, unsigned n) { sprintf(text, card >= 1000 ? "MIG-%ld" : "GPU-%ld", card >= 1000 ? card - 1000 : CARD(card)); return OK; }
int nvmlDeviceGetMinorNumber(long card, unsigned *n) { *n = (unsigned)CARD(card) + 4; return OK; }
int nvmlDeviceGetPcieThroughput(long card, unsigned kind, unsigned *kb) { usleep(20000); *kb = kind ? 7000 : 3000; return OK; }
int nvmlDeviceGetRemappedRows(long card, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
  if (home()) return NOT_SUPPORTED;
  *corrected = 1; *uncorrected = 2; *pending = 1; *failed = 0; return OK;
}
int nvmlDeviceGetMemoryInfo(long card, memory_t *m) {
  if (fell(card)) return LOST;
  if (card >= 1000) { m->total = gib(40); m->free = gib(30); m->used = gib(10); return OK; }
  m->total = gib(size()); m->free = gib(4); m->used = m->total - m->free; return OK;
}
int nvmlDeviceGetPciInfo_v3(long card, pci_t *pci) { sprintf(pci->bus_id, "00000000:%02lX:00.0", CARD(card) + 1); return OK; }
int nvmlDeviceGetUtilizationRates(long card, busy_t *b) { if (has("a100mig")) return NOT_SUPPORTED; b->gpu = has("idle") ? 0 : 87; b->memory = has("idle") ? 0 : 41; return OK; }
int nvmlDeviceGetPowerUsage(long card, unsigned *mw) { *mw = 312500; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(long card, unsigned *mw) { *mw = 350000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(long card, u64 *mj) {
  static u64 wrapped[] = {4294967000ull, 1200ull}; static int read = 0;
  *mj = has("wrapped") ? wrapped[read < 1 ? read++ : 1] : 987654321ull; return OK;
}
int nvmlDeviceGetTemperature(long card, unsigned sensor, unsigned *c) { *c = 71; return OK; }
int nvmlDeviceGetFanSpeed(long card, unsigned *percent) { if (has("a100mig")) return NOT_SUPPORTED; *percent = 55; return OK; }
int nvmlDeviceGetClockInfo(long card, unsigned kind, unsigned *mhz) { if (kind == 3 && has("a100mig")) return NO_PERMISSION; *mhz = kind == 2 ? 9501 : 1800 + kind; return OK; }
int nvmlDeviceGetTotalEccErrors(long card, unsigned type, unsigned counter, u64 *n) { if (home()) return NOT_SUPPORTED; *n = type == 0 ? 3 : 0; return OK; }
int nvmlDeviceGetCurrPcieLinkGeneration(long card, unsigned *n) { *n = 1; return OK; }
int nvmlDeviceGetMaxPcieLinkGeneration(long card, unsigned *n) { *n = has("pro6000") ? 5 : 4; return OK; }
int nvmlDeviceGetCurrPcieLinkWidth(long card, unsigned *n) { *n = 16; return OK; }
int nvmlDeviceGetMaxPcieLinkWidth(long card, unsigned *n) { *n = 16; return OK; }
int nvmlDeviceGetPcieReplayCounter(long card, unsigned *n) { *n = 2; return OK; }
int nvmlDeviceGetNvLinkState(long card, unsigned link, unsigned *up) { if (!has("a100mig") || link > 11) return NOT_SUPPORTED; *up = 1; return OK; }
int nvmlDeviceGetMigMode(long card, unsigned *now, unsigned *later) { if (!has("a100mig")) return NOT_SUPPORTED; *now = *later = 1; return OK; }
int nvmlDeviceGetMaxMigDeviceCount(long card, unsigned *n) { *n = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(long card, unsigned place, long *slice) { *slice = 1000 + place; return place < 2 ? OK : NOT_FOUND; }
int nvmlDeviceGetCudaComputeCapability(long card, int *major, int *minor) { *major = 8; *minor = 9; return OK; }
static int processes(unsigned *n, process_t *rows) {
  const char *named = getenv("FAKE_NVML_PID");
  if (*n < 2) { *n = 2; return TOO_SMALL; }
  rows[0] = (process_t){ named ? (unsigned)atoi(named) : 1, gib(10), ~0u, ~0u };
  rows[1] = (process_t){ 4242424, ~0ull, ~0u, ~0u };
  *n = 2; return OK;
}
#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(long card, memory2_t *m) {
  if (fell(card)) return LOST;
  if (card >= 1000) return NOT_SUPPORTED;
  m->total = gib(size()); m->reserved = gib(0.5); m->free = gib(4); m->used = m->total - m->free - m->reserved; return OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(long card, u64 *bits) { *bits = has("throttled") ? 0x20 | 0x4 : 0x1; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(long card, unsigned *n, process_t *rows) { return processes(n, rows); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(long card, unsigned *n, process_t *rows) { *n = 0; return OK; }
int nvmlDeviceGetFieldValues(long card, int n, field_t *fields) {
  for (int i = 0; i < n; i++) {
    field_t *f = fields + i; f->ret = OK;
    if (f->field == 186) { f->type = has("nan") ? 0 : 1; if (has("nan")) f->value.d = NAN; else f->value.ui = 305000; }
    else if (f->field == 82 && !home()) { f->type = 1; f->value.ui = 84; }
    else if (f->field >= 269 && f->field <= 271) { f->type = 3; f->value.ull = 2500000000ull; }
    else f->ret = NOT_SUPPORTED;
  }
  return OK;
}
int nvmlEventSetCreate(long *set) { *set = 7; return OK; }
int nvmlDeviceRegisterEvents(long card, u64 types, long set) { return OK; }
int nvmlEventSetWait_v2(long set, event_t *event, unsigned ms) {
  static int told = 0;
  if (!has("xid") || told++) return TIMEOUT;
  event->device = (void *)100L; event->type = 8; event->data = 79; return OK;
}
#else
int nvmlDeviceGetCurrentClocksThrottleReasons(long card, u64 *bits) { *bits = 0x1; return OK; }
#endif
