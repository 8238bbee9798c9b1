#include "server/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace spotd::server {
namespace {

double Seconds(const timeval& time) {
  return time.tv_sec + time.tv_usec * 1e-6;
}

// Taken when the program starts, so that it does not move with the clock.
const double kStartTime =
    std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  stats.start_time_seconds = kStartTime;

  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  stats.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);

  int64_t virtual_pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> virtual_pages >> resident_pages;
  const int64_t page = sysconf(_SC_PAGESIZE);
  stats.virtual_bytes = virtual_pages * page;
  stats.resident_bytes = resident_pages * page;

  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error);
  if (!error) stats.open_files = std::distance(begin(files), end(files));
  return stats;
}

}  // namespace spotd::server
