// The memory read rate that bounds decode on a host: measured in the same process, with the same
// number of threads.
#pragma once

namespace spotd::bench {

// Bytes per second that `threads` threads together read from memory, best of several passes over a
// buffer that exceeds every cache (256 MiB).
double MeasureReadRate(int threads);

}  // namespace spotd::bench
