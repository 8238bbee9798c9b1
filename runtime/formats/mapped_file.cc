#include "runtime/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::formats {
namespace {

// Closes the descriptor on every path out of Open; the mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status OpenError(const std::string& path, int error) {
  const std::string reason = std::generic_category().message(error);
  if (error == ENOENT || error == ENOTDIR) return NotFound(path, ": ", reason);
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(Concat(path, ": ", reason));
  }
  return InvalidArgument(path, ": ", reason);
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK keeps a named pipe from blocking here; it has no meaning for regular files.
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return OpenError(path, errno);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return OpenError(path, errno);
  if (S_ISDIR(info.st_mode)) return InvalidArgument(path, ": is a directory, not a file");
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path, ": is not a regular file");
  if (info.st_size == 0) return DataLoss(path, ": the file is empty");
  const auto size = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return OpenError(path, errno);
  return MappedFile(path, static_cast<const char*>(data), size, /*mapped=*/true);
}

MappedFile MappedFile::InMemory(std::string path, std::string_view bytes) {
  return MappedFile(std::move(path), bytes.data(), bytes.size(), /*mapped=*/false);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, false)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

MappedFile::~MappedFile() {
  // munmap takes a mutable pointer although it only releases the range.
  if (mapped_) munmap(const_cast<char*>(data_), size_);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  SPOTD_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.bytes().size() > max_bytes) {
    return InvalidArgument(path, ": ", file.bytes().size(), " bytes, more than the ", max_bytes,
                           " such a file may have");
  }
  return std::string(file.bytes());
}

}  // namespace spotd::formats
