#include <sys/mman.h>
#include <unistd.h>

#include "kernels/core/check.h"
#include "tests/fuzz/fuzz_target.h"

namespace spotd::fuzz {

MemoryFile::MemoryFile(std::string_view bytes) : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
  SPOTD_CHECK(file_ >= 0);
  SPOTD_CHECK(write(file_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  path_ = "/proc/self/fd/" + std::to_string(file_);
}

MemoryFile::~MemoryFile() {
  close(file_);
}

}  // namespace spotd::fuzz
