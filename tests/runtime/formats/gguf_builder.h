// Builds GGUF bytes by hand, so that tests can put anything at all into them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spotd::formats {

class Bytes {
 public:
  template <typename T>
  Bytes& Number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& String(std::string_view text) {
    Number<uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  Bytes& Raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  Bytes& PadTo(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  const std::string& str() const { return bytes_; }

 private:
  std::string bytes_;
};

// The first 24 bytes of a file.
inline Bytes GgufPreamble(uint64_t tensors, uint64_t values, uint32_t version = 3) {
  Bytes out;
  out.Raw("GGUF").Number<uint32_t>(version).Number<uint64_t>(tensors).Number<uint64_t>(values);
  return out;
}

// A tensor's entry in the list: a matrix of `cols` x `rows`.
inline void AddTensorEntry(Bytes* bytes, std::string_view name, uint64_t cols, uint64_t rows,
                           uint32_t type, uint64_t offset) {
  bytes->String(name).Number<uint32_t>(2).Number(cols).Number(rows).Number(type).Number(offset);
}

}  // namespace spotd::formats
