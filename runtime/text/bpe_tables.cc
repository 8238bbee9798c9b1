#include "runtime/text/bpe_tables.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace spotd::text {
namespace {

constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;

size_t TableSize(size_t entries) {
  return std::bit_ceil(std::max<size_t>(16, entries * 2));
}

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t HashBytes(std::string_view bytes) {
  uint64_t hash = bytes.size() * kMultiplier;
  const auto mix = [&hash](uint64_t word) {
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 32;
  };
  uint64_t word = 0;
  while (bytes.size() >= sizeof word) {
    std::memcpy(&word, bytes.data(), sizeof word);
    mix(word);
    bytes.remove_prefix(sizeof word);
  }
  word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  mix(word);
  return hash;
}

}  // namespace

MergeTable::MergeTable(size_t max_merges)
    : slots_(TableSize(max_merges)),
      shift_(64 - static_cast<uint32_t>(std::countr_zero(slots_.size()))) {}

size_t MergeTable::SlotOf(uint64_t key) const {
  uint64_t hash = key ^ key >> 29;
  size_t slot = (hash * kMultiplier) >> shift_;
  while (slots_[slot].key != key && slots_[slot].key != kFree) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

void MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = PairKey(left, right);
  slots_[SlotOf(key)] = {key, merge};
}

MergeTable::Merge MergeTable::Find(int32_t left, int32_t right) const {
  return slots_[SlotOf(PairKey(left, right))].merge;
}

WordTable::WordTable(const std::vector<std::string>* words)
    : words_(words), slots_(TableSize(words->size())) {
  for (size_t id = 0; id < words->size(); ++id) {
    const std::string& word = (*words)[id];
    if (word.empty()) continue;
    max_bytes_ = std::max(max_bytes_, word.size());
    const auto tag = static_cast<uint32_t>(HashBytes(word));
    Slot& slot = slots_[SlotOf(word, tag)];
    if (slot.id < 0) slot = {static_cast<int32_t>(id), tag};
  }
}

size_t WordTable::SlotOf(std::string_view word, uint32_t tag) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = tag & mask;
  while (slots_[slot].id >= 0 &&
         (slots_[slot].tag != tag || (*words_)[static_cast<size_t>(slots_[slot].id)] != word)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

int32_t WordTable::Find(std::string_view word) const {
  if (word.size() > max_bytes_) return -1;
  return slots_[SlotOf(word, static_cast<uint32_t>(HashBytes(word)))].id;
}

}  // namespace spotd::text
