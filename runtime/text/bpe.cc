#include "runtime/text/bpe.h"

#include <algorithm>
#include <queue>

#include "kernels/core/status.h"
#include "runtime/text/byte_alphabet.h"

namespace spotd::text {
namespace {

// Up to this many symbols, finding the best pair by looking at all of them is faster than keeping a
// heap.
constexpr size_t kScanLimit = 64;

using Merge = MergeTable::Merge;

// A candidate in the heap. It is out of date when the pair at `at` no longer makes `id`.
struct Candidate {
  int32_t rank;
  uint32_t at;
  int32_t id;
  bool operator<(const Candidate& other) const {  // std::priority_queue wants the largest first
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

// Symbols of a long piece as a list that can be shortened in the middle.
class SymbolList {
 public:
  explicit SymbolList(const std::vector<int32_t>& ids) : nodes_(ids.size()) {
    for (uint32_t i = 0; i < nodes_.size(); ++i) nodes_[i] = {ids[i], i - 1, i + 1};
  }
  bool IsPair(uint32_t at) const { return nodes_[at].id >= 0 && HasNext(at); }
  bool HasNext(uint32_t at) const { return nodes_[at].next < nodes_.size(); }
  bool HasPrevious(uint32_t at) const { return at > 0; }
  uint32_t Next(uint32_t at) const { return nodes_[at].next; }
  uint32_t Previous(uint32_t at) const { return nodes_[at].previous; }
  int32_t Id(uint32_t at) const { return nodes_[at].id; }

  // The symbol after `at` is swallowed by it.
  void MergePair(uint32_t at, int32_t id) {
    Node& gone = nodes_[nodes_[at].next];
    nodes_[at].id = id;
    nodes_[at].next = gone.next;
    if (gone.next < nodes_.size()) nodes_[gone.next].previous = at;
    gone.id = -1;
  }

 private:
  struct Node {
    int32_t id;  // -1: swallowed
    uint32_t previous;
    uint32_t next;  // number of nodes at the end
  };
  std::vector<Node> nodes_;
};

}  // namespace

Bpe::Bpe(const TokenizerData& data, std::vector<std::string> words)
    : words_(std::move(words)),
      word_table_(&words_),
      merges_(data.merges.size()),
      ignore_merges_(data.ignore_merges),
      unknown_(data.unknown),
      fuse_unknown_(data.fuse_unknown) {
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const char character = static_cast<char>(byte);
    byte_ids_[byte] = word_table_.Find(std::string_view(&character, 1));
  }
}

absl::StatusOr<std::unique_ptr<Bpe>> Bpe::Create(const TokenizerData& data,
                                                 std::vector<std::string> words) {
  std::unique_ptr<Bpe> bpe(new Bpe(data, std::move(words)));
  SPOTD_RETURN_IF_ERROR(bpe->AddMerges(data));
  bpe->FindWholeWords();
  return bpe;
}

absl::Status Bpe::AddMerges(const TokenizerData& data) {
  const auto find = [this](const std::string& token) {
    const auto bytes = AlphabetToBytes(token);
    return bytes ? word_table_.Find(*bytes) : -1;
  };
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    const auto& [left, right] = data.merges[rank];
    const int32_t left_id = find(left);
    const int32_t right_id = find(right);
    const int32_t id = find(left + right);
    if (left_id < 0 || right_id < 0 || id < 0) {
      return InvalidArgument("merge ", rank, " (\"", left, "\" and \"", right,
                             "\"): not all of its tokens are in the vocabulary");
    }
    merges_.Insert(left_id, right_id, Merge{static_cast<int32_t>(rank), id});
  }
  return absl::OkStatus();
}

void Bpe::FindWholeWords() {
  whole_.assign(words_.size(), false);
  std::vector<int32_t> ids;
  for (size_t id = 0; id < words_.size(); ++id) {
    if (words_[id].empty()) continue;
    ids.clear();
    StartSymbols(words_[id], &ids);
    ids.size() <= kScanLimit ? MergeByScan(&ids) : MergeByHeap(&ids);
    whole_[id] = ids.size() == 1 && ids[0] == static_cast<int32_t>(id);
  }
}

void Bpe::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  const int32_t word = word_table_.Find(piece);
  if (word >= 0 && (ignore_merges_ || whole_[static_cast<size_t>(word)])) {
    ids->push_back(word);
    return;
  }
  thread_local std::vector<int32_t> symbols;
  symbols.clear();
  StartSymbols(piece, &symbols);
  symbols.size() <= kScanLimit ? MergeByScan(&symbols) : MergeByHeap(&symbols);
  ids->insert(ids->end(), symbols.begin(), symbols.end());
  if (symbols.size() > kScanLimit) symbols = {};  // do not keep a long piece's memory
}

void Bpe::MergeByScanForTest(std::string_view piece, std::vector<int32_t>* ids) const {
  ids->clear();
  StartSymbols(piece, ids);
  MergeByScan(ids);
}

void Bpe::MergeByHeapForTest(std::string_view piece, std::vector<int32_t>* ids) const {
  ids->clear();
  StartSymbols(piece, ids);
  MergeByHeap(ids);
}

void Bpe::StartSymbols(std::string_view piece, std::vector<int32_t>* symbols) const {
  bool after_unknown = false;
  for (const char character : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(character)];
    const bool missing = id < 0;
    if (!missing) {
      symbols->push_back(id);
    } else if (unknown_ >= 0 && !(after_unknown && fuse_unknown_)) {
      symbols->push_back(unknown_);
    }
    after_unknown = missing;
  }
}

void Bpe::MergeByScan(std::vector<int32_t>* symbols) const {
  std::vector<int32_t>& ids = *symbols;
  std::array<Merge, kScanLimit> merge_at;  // of symbol i with symbol i + 1
  size_t pairs = ids.empty() ? 0 : ids.size() - 1;
  for (size_t i = 0; i < pairs; ++i) merge_at[i] = merges_.Find(ids[i], ids[i + 1]);
  while (pairs > 0) {
    const auto begin = merge_at.begin();
    const auto best = std::min_element(
        begin, begin + pairs, [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == MergeTable::kNoMerge) break;
    const auto at = static_cast<size_t>(best - begin);
    ids[at] = best->id;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
    std::copy(best + 1, begin + pairs, best);
    --pairs;
    if (at < pairs) merge_at[at] = merges_.Find(ids[at], ids[at + 1]);
    if (at > 0) merge_at[at - 1] = merges_.Find(ids[at - 1], ids[at]);
  }
}

void Bpe::MergeByHeap(std::vector<int32_t>* symbols) const {
  SymbolList list(*symbols);
  std::priority_queue<Candidate> heap;
  const auto offer = [&](uint32_t at) {
    const Merge merge = merges_.Find(list.Id(at), list.Id(list.Next(at)));
    if (merge.rank != MergeTable::kNoMerge) heap.push({merge.rank, at, merge.id});
  };
  for (uint32_t at = 0; at + 1 < symbols->size(); ++at) offer(at);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    if (!list.IsPair(best.at)) continue;
    const uint32_t at = best.at;
    if (merges_.Find(list.Id(at), list.Id(list.Next(at))).id != best.id) continue;
    list.MergePair(at, best.id);
    if (list.HasPrevious(at)) offer(list.Previous(at));
    if (list.HasNext(at)) offer(at);
  }
  if (symbols->empty()) return;
  std::vector<int32_t> merged;
  for (uint32_t at = 0; at < symbols->size(); at = list.Next(at)) merged.push_back(list.Id(at));
  *symbols = std::move(merged);
}

}  // namespace spotd::text
