#include "runtime/formats/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

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
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
  return text;
}

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

absl::Status WriteSafetensors(const std::string& path,
                              const std::vector<SafetensorsOutput>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  const std::string temporary = path + ".partial";
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return SystemError(temporary, "create");
  absl::Status status = WriteContents(file, temporary, tensors, Header(tensors, metadata));
  if (::close(file) != 0 && status.ok()) status = SystemError(temporary, "close");
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0)
    status = SystemError(path, "rename to");
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

}  // namespace spotd::formats
