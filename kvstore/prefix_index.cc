#include "kvstore/prefix_index.h"

#include <algorithm>

namespace spotd::kvstore {
namespace {

// The finaliser of SplitMix64: every bit of the result depends on every bit of the input.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t PrefixIndex::RootKey(const std::string& owner) {
  uint64_t key = Mix(owner.size());
  for (const char c : owner) key = Mix(key ^ static_cast<unsigned char>(c));
  return key;
}

uint64_t PrefixIndex::NextKey(uint64_t parent, std::span<const int32_t> tokens) {
  uint64_t key = parent;
  for (const int32_t token : tokens) key = Mix(key ^ static_cast<uint32_t>(token));
  return key;
}

std::optional<BlockId> PrefixIndex::Find(const std::string& owner, uint64_t parent,
                                         std::span<const int32_t> tokens) const {
  const auto it = entries_.find(NextKey(parent, tokens));
  if (it == entries_.end()) return std::nullopt;
  const Entry& entry = it->second;
  const bool same =
      entry.parent == parent && entry.owner == owner &&
      std::equal(tokens.begin(), tokens.end(), entry.tokens.begin(), entry.tokens.end());
  return same ? std::optional(entry.block) : std::nullopt;
}

void PrefixIndex::Insert(const std::string& owner, uint64_t parent, std::span<const int32_t> tokens,
                         BlockId block) {
  const uint64_t key = NextKey(parent, tokens);
  const auto [it, is_new] = entries_.try_emplace(
      key, Entry{owner, parent, std::vector<int32_t>(tokens.begin(), tokens.end()), block});
  if (is_new) by_block_[block] = key;
}

void PrefixIndex::Erase(BlockId block) {
  const auto it = by_block_.find(block);
  if (it == by_block_.end()) return;
  entries_.erase(it->second);
  by_block_.erase(it);
}

}  // namespace spotd::kvstore
