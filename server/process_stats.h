// This process as the kernel sees it: the usual process_* metrics.
#pragma once

#include <cstdint>

namespace spotd::server {

struct ProcessStats {
  double cpu_seconds = 0;
  int64_t resident_bytes = 0;
  int64_t virtual_bytes = 0;
  int64_t open_files = 0;
  double start_time_seconds = 0;  // Unix time
};

ProcessStats ReadProcessStats();

}  // namespace spotd::server
