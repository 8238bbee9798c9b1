// Where the time of a captured step goes: a library that a CUDA program loads by itself, and that
// writes at its end a table of the kernels of the last captured steps.
//
//   CUDA_INJECTION64_PATH=build/release/gpu/libspotd_kernel_trace.so spot-bench decode ...
//
// Kernels overlap under dependent launch, so a kernel is charged with what the chain grew by: the
// end of it less the latest end before it. The charges of a step add up to the step. One line per
// kernel and grid: calls a step, microseconds of a call and of the step, then its own duration,
// registers, shared memory. What a step asks of the driver is api_trace.cc's.
#include <cupti.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;
constexpr size_t kFewestKernels = 20;  // of a step; smaller graphs are not of interest
constexpr size_t kMostSteps = 9;       // of one graph

struct Kernel {
  uint64_t start;
  uint64_t end;
  uint32_t graph;
  uint32_t launch;  // correlation: the same for all kernels of one replay
  int32_t grid[3];
  int32_t threads;
  uint32_t registers;
  uint32_t shared_bytes;
  std::string name;
};

std::mutex mutex;
std::vector<Kernel>& Kernels() {
  static auto* kernels = new std::vector<Kernel>;
  return *kernels;
}

// The function's own name, from a mangled one: the last length-prefixed word before its arguments.
std::string ShortName(const char* mangled) {
  std::string name = mangled == nullptr ? "?" : mangled;
  std::string best = name;
  for (size_t i = 0; i < name.size();) {
    if (name[i] < '1' || name[i] > '9') {
      ++i;
      continue;
    }
    size_t digits = i;
    size_t length = 0;
    while (digits < name.size() && name[digits] >= '0' && name[digits] <= '9')
      length = 10 * length + static_cast<size_t>(name[digits++] - '0');
    if (digits + length > name.size()) break;
    const std::string word = name.substr(digits, length);
    if (word.find("Kernel") != std::string::npos) {
      const size_t next = digits + length;
      if (next >= name.size() || name[next] != 'I') return word;
      const size_t last = name.find("EE", next);
      return word + "<" + name.substr(next + 1, last - next - 1) + ">";
    }
    best = word;
    i = digits + length;
  }
  return best;
}

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *max_records = 0;
}

void Read(const CUpti_Activity* record) {
  if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) return;
  const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
  Kernels().push_back({k->start,
                       k->end,
                       k->graphId,
                       k->correlationId,
                       {k->gridX, k->gridY, k->gridZ},
                       k->blockX * k->blockY * k->blockZ,
                       k->registersPerThread,
                       static_cast<uint32_t>(k->dynamicSharedMemory + k->staticSharedMemory),
                       ShortName(k->name)});
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard<std::mutex> lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) Read(record);
  std::free(buffer);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

using Step = std::vector<const Kernel*>;

void Print(uint32_t graph, const std::vector<Step>& steps) {
  struct Line {
    std::vector<double> charged;
    std::vector<double> own;
    const Kernel* kernel = nullptr;
  };
  std::map<std::string, Line> lines;
  std::vector<double> totals;
  for (const Step& step : steps) {
    uint64_t end = step.front()->start;
    for (const Kernel* k : step) {
      char key[256];
      std::snprintf(key, sizeof(key), "%s %dx%dx%d", k->name.c_str(), k->grid[0], k->grid[1],
                    k->grid[2]);
      Line& line = lines[key];
      line.charged.push_back(k->end > end ? static_cast<double>(k->end - end) / 1e3 : 0.0);
      line.own.push_back(static_cast<double>(k->end - k->start) / 1e3);
      line.kernel = k;
      end = std::max(end, k->end);
    }
    totals.push_back(static_cast<double>(end - step.front()->start) / 1e3);
  }
  std::fprintf(stderr, "graph %u: %zu kernels, %.1f us a step (median of %zu)\n", graph,
               steps.front().size(), Median(totals), steps.size());
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [key, line] : lines) {
    double sum = 0;
    for (const double us : line.charged) sum += us;
    order.emplace_back(-sum / static_cast<double>(steps.size()), key);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [sum, key] : order) {
    const Line& line = lines[key];
    std::fprintf(
        stderr, "  %-46s %4zu x %7.2f us = %8.1f us  own %7.2f us  %d thr %u reg %u B shared\n",
        key.c_str(), line.charged.size() / steps.size(), Median(line.charged), -sum,
        Median(line.own), line.kernel->threads, line.kernel->registers, line.kernel->shared_bytes);
  }
}

void Finish() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard<std::mutex> lock(mutex);
  std::map<std::pair<uint32_t, uint32_t>, Step> launches;
  for (const Kernel& k : Kernels()) {
    if (k.graph != 0) launches[{k.graph, k.launch}].push_back(&k);
  }
  std::map<uint32_t, std::vector<Step>> graphs;
  for (auto& [key, step] : launches) {
    if (step.size() < kFewestKernels) continue;
    std::sort(step.begin(), step.end(),
              [](const Kernel* a, const Kernel* b) { return a->end < b->end; });
    graphs[key.first].push_back(std::move(step));
  }
  for (auto& [graph, steps] : graphs) {
    if (steps.size() > kMostSteps)
      steps.erase(steps.begin(), steps.end() - static_cast<int64_t>(kMostSteps));
    Print(graph, steps);
  }
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  std::atexit(Finish);
  return 1;
}
