#include "runtime/formats/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>

#include "kernels/core/status.h"
#include "nlohmann/json.hpp"

namespace spotd::formats {
namespace {

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::UnavailableError(Concat(path, ": cannot ", what, ": ", std::strerror(errno)));
}

absl::Status WriteAll(int file, const std::string& path, const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return SystemError(path, "write");
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

std::string Header(const std::vector<SafetensorsOutput>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const SafetensorsOutput& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.type_name},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  // Names come from the user's files; JSON is UTF-8.
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
  return text;
}

// What a rename would put a file in the place of: nothing, or a file.
absl::Status CheckTarget(const std::string& path) {
  struct stat info;
  if (path.empty()) return InvalidArgument("no path to write to");
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return InvalidArgument(path, ": is not a regular file");
  }
  return absl::OkStatus();
}

// A file that no other program writes, beside `path`.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path)
      : name_(Concat(path, ".partial.", std::hex, std::random_device()())),
        file_(::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {}
  ~TemporaryFile() {
    if (file_ < 0) return;
    Close().IgnoreError();
    ::unlink(name_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& name() const { return name_; }
  int get() const { return file_; }
  absl::Status Close() {
    if (!open_) return absl::OkStatus();
    open_ = false;
    return ::close(file_) == 0 ? absl::OkStatus() : SystemError(name_, "close");
  }

 private:
  std::string name_;
  int file_;
  bool open_ = file_ >= 0;
};

absl::Status WriteContents(int file, const std::string& path,
                           const std::vector<SafetensorsOutput>& tensors,
                           const std::string& header) {
  const uint64_t header_bytes = header.size();
  SPOTD_RETURN_IF_ERROR(WriteAll(file, path, &header_bytes, sizeof(header_bytes)));
  SPOTD_RETURN_IF_ERROR(WriteAll(file, path, header.data(), header.size()));
  for (const SafetensorsOutput& tensor : tensors) {
    SPOTD_RETURN_IF_ERROR(WriteAll(file, path, tensor.data, tensor.bytes));
  }
  return ::fsync(file) == 0 ? absl::OkStatus() : SystemError(path, "sync");
}

}  // namespace

absl::Status CheckWritable(const std::string& path) {
  SPOTD_RETURN_IF_ERROR(CheckTarget(path));
  const TemporaryFile file(path);
  return file.get() >= 0 ? absl::OkStatus() : SystemError(file.name(), "create");
}

absl::Status WriteSafetensors(const std::string& path,
                              const std::vector<SafetensorsOutput>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  SPOTD_RETURN_IF_ERROR(CheckTarget(path));
  TemporaryFile file(path);
  if (file.get() < 0) return SystemError(file.name(), "create");
  SPOTD_RETURN_IF_ERROR(WriteContents(file.get(), file.name(), tensors, Header(tensors, metadata)));
  SPOTD_RETURN_IF_ERROR(file.Close());
  if (std::rename(file.name().c_str(), path.c_str()) != 0) return SystemError(path, "rename to");
  return absl::OkStatus();
}

std::string SafetensorsBytes(const std::vector<SafetensorsOutput>& tensors,
                             const std::map<std::string, std::string>& metadata) {
  const std::string header = Header(tensors, metadata);
  const uint64_t header_bytes = header.size();
  std::string bytes(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  bytes += header;
  for (const SafetensorsOutput& tensor : tensors) {
    bytes.append(static_cast<const char*>(tensor.data), tensor.bytes);
  }
  return bytes;
}

}  // namespace spotd::formats
