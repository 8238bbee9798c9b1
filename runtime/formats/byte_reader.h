// Reads little-endian values from untrusted bytes, front to back; never past the end.
//
// After the first failure every read fails and yields zero, so a parser may read a group of fields
// and check ok() once, before it uses them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace spotd::formats {

static_assert(std::endian::native == std::endian::little, "checkpoint files are read in place");

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  T Read() {
    T value = {};
    const std::string_view raw = ReadBytes(sizeof(T));
    if (ok_) std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  std::string_view ReadBytes(uint64_t count) {
    if (!ok_ || count > remaining()) {
      ok_ = false;
      return {};
    }
    const std::string_view out = bytes_.substr(position_, count);
    position_ += count;
    return out;
  }

  // GGUF's string: a 64-bit length, then the bytes.
  std::string_view ReadString64() { return ReadBytes(Read<uint64_t>()); }

 private:
  std::string_view bytes_;
  size_t position_ = 0;
  bool ok_ = true;
};

}  // namespace spotd::formats
