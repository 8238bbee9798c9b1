// Lists what a program asks of the CUDA driver in each decode step, and which of those calls wait
// for the device. Loaded into any program by the driver itself:
//
//   CUDA_INJECTION64_PATH=$PWD/build/cuda/gpu/libapi_trace.so spot-bench decode ...
//
// A step is what happens from one cuGraphLaunch to the next, so a listed step begins with its
// launch and ends with the uploads of the one after it. Printed at exit to stderr: how many steps
// there were, their commonest sequence of calls with the mean host time of each, and every call
// that waits.
#include <cupti.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Call {
  const char* name;
  Clock::time_point start;
  double microseconds = 0;
};

struct Sequence {
  int64_t steps = 0;
  std::vector<std::string> names;
  std::vector<double> microseconds;  // summed over the steps
};

// Calls that return only when the device has finished something. Asynchronous copies from or to
// pinned memory do not; ours are (kernels/cuda/device_memory.h).
bool Waits(std::string_view name) {
  if (name.find("Async") != std::string_view::npos) return false;
  return name.find("Synchronize") != std::string_view::npos || name.starts_with("cuMemcpy") ||
         name.starts_with("cuMemAlloc") || name.starts_with("cuMemFree") ||
         name.starts_with("cuMemset");
}

std::mutex mutex;
std::vector<Call> calls;  // since the latest cuGraphLaunch
bool in_step = false;
std::map<std::string, Sequence> sequences;  // by the names of their calls

void EndStep() {
  std::string key;
  for (const Call& call : calls) key += std::string(call.name) + "\n";
  Sequence& sequence = sequences[key];
  if (sequence.steps++ == 0) {
    for (const Call& call : calls) sequence.names.emplace_back(call.name);
    sequence.microseconds.resize(calls.size());
  }
  for (size_t i = 0; i < calls.size(); ++i) sequence.microseconds[i] += calls[i].microseconds;
  calls.clear();
}

void CUPTIAPI OnCall(void*, CUpti_CallbackDomain, CUpti_CallbackId, const void* data) {
  const auto& info = *static_cast<const CUpti_CallbackData*>(data);
  const std::lock_guard lock(mutex);
  const std::string_view name = info.functionName;
  if (info.callbackSite == CUPTI_API_EXIT) {
    if (calls.empty() || name != calls.back().name) return;
    const std::chrono::duration<double, std::micro> took = Clock::now() - calls.back().start;
    calls.back().microseconds = took.count();
    return;
  }
  if (name.starts_with("cuGraphLaunch")) {
    if (in_step) EndStep();
    in_step = true;
    calls.clear();
  }
  if (in_step) calls.push_back({info.functionName, Clock::now()});
}

void Report() {
  const std::lock_guard lock(mutex);
  int64_t steps = 0;
  const Sequence* commonest = nullptr;
  std::map<std::string, int64_t> waiting;
  for (const auto& [key, sequence] : sequences) {
    steps += sequence.steps;
    if (commonest == nullptr || sequence.steps > commonest->steps) commonest = &sequence;
    for (const std::string& name : sequence.names) {
      if (Waits(name)) waiting[name] += sequence.steps;
    }
  }
  if (commonest == nullptr) {
    std::fprintf(stderr, "api_trace: no captured step was launched\n");
    return;
  }
  std::fprintf(stderr, "api_trace: %lld steps, %zu different sequences of calls; %lld steps are:\n",
               static_cast<long long>(steps), sequences.size(),
               static_cast<long long>(commonest->steps));
  for (size_t i = 0; i < commonest->names.size(); ++i) {
    std::fprintf(stderr, "api_trace:   %-32s %8.1f us%s\n", commonest->names[i].c_str(),
                 commonest->microseconds[i] / static_cast<double>(commonest->steps),
                 Waits(commonest->names[i]) ? "  waits" : "");
  }
  for (const auto& [name, count] : waiting) {
    std::fprintf(stderr, "api_trace: %s waits, %.3f times a step\n", name.c_str(),
                 static_cast<double>(count) / static_cast<double>(steps));
  }
}

void Require(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return;
  const char* why = "";
  cuptiGetResultString(result, &why);
  std::fprintf(stderr, "api_trace: %s: %s\n", what, why);
  std::exit(1);
}

}  // namespace

// The driver calls this when a program first uses it.
extern "C" int InitializeInjection() {
  CUpti_SubscriberHandle subscriber;
  Require(cuptiSubscribe(&subscriber, OnCall, nullptr), "subscribing to the driver's calls");
  Require(cuptiEnableDomain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API), "watching the driver");
  std::atexit(Report);
  return 1;
}
