// Random operations against a naive model that remembers the marker of every position of every
// table.
//
// The test writes like an engine: after Reserve it may write any reserved position. Each position's
// marker goes into K, V, the selector key and the summary of its block, in every layer; reading it
// back through the table proves that no two tables ever write one block, that copies on write are
// complete, and that truncation keeps what it must.
//
// Tokens come from a small alphabet, so tables often begin alike. Where KV is declared to depend on
// the tokens alone, the marker is a hash of them; a block adopted from another table must then hold
// the very markers that this table would have written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kvstore/kv_store.h"
#include "tests/kvstore/host_backend.h"

namespace spotd::kvstore {
namespace {

constexpr int kBlocks = 48;
constexpr size_t kMaxTables = 10;
constexpr int kOperations = 100000;

struct Tracked {
  BlockTable table;
  std::vector<uint16_t> markers;  // by position: what must be read back
  std::vector<int32_t> tokens;    // by position
  int owner = 0;
  int shareable = 0;  // positions from 0 whose markers depend on tokens alone
};

// Of the KV that dense prefill writes at the end of `tokens`.
uint16_t MarkerOf(int owner, std::span<const int32_t> tokens) {
  uint32_t hash = 2166136261 + static_cast<uint32_t>(owner);
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token + 1)) * 16777619;
  return static_cast<uint16_t>(hash ^ (hash >> 16));
}

class KvStoreModel {
 public:
  KvStoreModel(uint64_t seed, int32_t block_tokens, int32_t kept = 0) : random_(seed), kept_(kept) {
    layout_.layers = 2;
    layout_.kv_heads = 2;
    layout_.head_dim = 4;
    layout_.block_tokens = block_tokens;
    layout_.selector_format = kernels::SelectorKeyFormat::kBf16;
    layout_.selector_dim = 1;
    store_ = *KvStore::Create(&backend_, layout_, kBlocks * layout_.BytesPerBlock());
    store_->KeepPrefixes(kept);
    tables_.reserve(kMaxTables);  // references to its elements stay valid
  }

  void Run() {
    for (int i = 0; i < kOperations && !::testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE(i);
      Operate();
      CheckAccounting();
    }
    EXPECT_GT(exhausted_, 0) << "the pool never ran dry: the test is too mild";
    EXPECT_GT(store_->stats().copies_on_write, 1000u);
    EXPECT_GT(adopted_, 1000) << "prefixes were hardly ever shared";
    tables_.clear();
    EXPECT_EQ(store_->stats().blocks_used, 0);
    EXPECT_EQ(store_->stats().blocks_shared, 0);
    EXPECT_EQ(store_->stats().blocks_offered, store_->stats().blocks_kept);
    EXPECT_EQ(store_->stats().kept_given_up > 0, kept_ > 0);
  }

 private:
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void Operate() {
    if (tables_.empty()) return AddNew();
    const size_t index = Uniform(0, static_cast<int>(tables_.size()) - 1);
    Tracked& tracked = tables_[index];
    switch (Uniform(0, 10)) {
      case 0:
        if (tables_.size() < kMaxTables) AddNew();
        break;
      case 1:
        tables_.erase(tables_.begin() + index);
        return;
      case 2:
        if (tables_.size() < kMaxTables) {
          tables_.push_back({store_->Fork(tracked.table), tracked.markers, tracked.tokens,
                             tracked.owner, tracked.shareable});
          Verify(tables_.back());
          return;
        }
        break;
      case 3:
        Truncate(&tracked);
        break;
      case 4:
        store_->Truncate(&tracked.table, tracked.table.num_tokens());  // what was reserved
        break;
      case 5:
        Adopt(&tracked);
        break;
      default:
        Append(&tracked);
    }
    Verify(tracked);
  }

  void AddNew() {
    tables_.push_back({store_->NewTable(), {}, {}, Uniform(0, 1), 0});
    Adopt(&tables_.back());
  }

  // One of three texts per stretch of 64 tokens: beginnings are often the same.
  int32_t NextToken(const Tracked& tracked) {
    if (tracked.tokens.size() % 64 == 0) return Uniform(0, 2);
    return (tracked.tokens.back() * 7 + 1) % 3;
  }

  void Adopt(Tracked* tracked) {
    Tracked longer = {store_->NewTable(), {}, tracked->tokens, 0, 0};
    for (int i = Uniform(0, 100); i > 0; --i) longer.tokens.push_back(NextToken(longer));
    const int before = tracked->table.num_tokens();
    const int grown = store_->AdoptPrefix(&tracked->table, Owner(*tracked), longer.tokens);
    ASSERT_EQ(tracked->table.num_tokens(), before + grown);
    if (grown == 0) return;
    ++adopted_;
    ASSERT_EQ(tracked->shareable, before) << "what sparse decoding wrote was built upon";
    tracked->tokens.assign(longer.tokens.begin(), longer.tokens.begin() + before + grown);
    for (int i = before; i < before + grown; ++i) {
      tracked->markers.push_back(MarkerOf(tracked->owner, std::span(tracked->tokens).first(i + 1)));
    }
    tracked->shareable = before + grown;
  }

  static std::string Owner(const Tracked& tracked) {
    return tracked.owner == 0 ? "one" : "another";
  }

  void Truncate(Tracked* tracked) {
    const int keep = Uniform(0, tracked->table.num_tokens());
    store_->Truncate(&tracked->table, keep);
    tracked->markers.resize(keep);
    tracked->tokens.resize(keep);
    tracked->shareable = std::min(tracked->shareable, keep);
  }

  void Append(Tracked* tracked) {
    const int reserve = Uniform(0, 3) == 0 ? Uniform(0, 200) : Uniform(0, 5);
    const std::vector<BlockId> before = tracked->table.blocks();
    const KvStats stats = store_->stats();
    const int needed = store_->BlocksNeeded(tracked->table, reserve);
    const absl::Status status = store_->Reserve(&tracked->table, reserve);
    EXPECT_EQ(status.ok(), needed <= stats.blocks_total - stats.blocks_used) << status;
    if (!status.ok()) {
      EXPECT_EQ(tracked->table.blocks(), before);
      ++exhausted_;
      return;
    }
    const int written = Uniform(0, reserve);
    const bool prefill = Uniform(0, 3) > 0;
    const bool clean = prefill && tracked->shareable == tracked->table.num_tokens();
    for (int i = 0; i < reserve; ++i) {
      uint16_t marker = ++next_marker_;
      if (i < written) {
        tracked->tokens.push_back(NextToken(*tracked));
        // Markers of the other owner differ: a block of its would be noticed.
        if (clean) marker = MarkerOf(tracked->owner, tracked->tokens);
        tracked->markers.push_back(marker);
      }
      // Positions beyond `written` are scribbled over and never committed.
      Write(*tracked, tracked->table.num_tokens() + i, marker);
    }
    if (!prefill) return store_->Commit(&tracked->table, written);
    store_->CommitShareable(&tracked->table, written, Owner(*tracked), tracked->tokens);
    if (clean) tracked->shareable += written;
  }

  // Calls visit(address) for each place in the store that belongs to one position.
  template <typename Visit>
  void ForEachPlace(const BlockTable& table, int position, const Visit& visit) {
    const BlockId block = table.blocks()[position / layout_.block_tokens];
    const int slot = position % layout_.block_tokens;
    const int slots = layout_.block_tokens * layout_.head_dim;  // elements of one head's K or V
    for (int32_t layer = 0; layer < layout_.layers; ++layer) {
      const kernels::KvLayer view = store_->LayerView(layer);
      auto* kv = static_cast<std::byte*>(view.kv) + block * layout_.KvBlockBytes();
      for (int row = 0; row < 2 * layout_.kv_heads; ++row) {
        visit(kv + sizeof(uint16_t) * (row * slots + slot * layout_.head_dim + row % 2));
      }
      visit(static_cast<std::byte*>(view.selector_keys) + block * layout_.SelectorBlockBytes() +
            slot * sizeof(uint16_t));
    }
  }

  void Write(const Tracked& tracked, int position, uint16_t marker) {
    ForEachPlace(tracked.table, position,
                 [&](std::byte* place) { std::memcpy(place, &marker, sizeof(marker)); });
    // One summary for the whole block: it must equal the marker of the block's first position.
    if (position % layout_.block_tokens != 0) return;
    std::memcpy(Summary(tracked.table, position), &marker, sizeof(marker));
  }

  std::byte* Summary(const BlockTable& table, int position) {
    const BlockId block = table.blocks()[position / layout_.block_tokens];
    return static_cast<std::byte*>(store_->LayerView(1).summary) +
           block * layout_.SummaryBlockBytes();
  }

  void Verify(const Tracked& tracked) {
    ASSERT_EQ(tracked.table.num_tokens(), static_cast<int>(tracked.markers.size()));
    int wrong = 0;
    for (int i = 0; i < tracked.table.num_tokens(); ++i) {
      const uint16_t expected = tracked.markers[i];
      const auto compare = [&](std::byte* place) {
        wrong += std::memcmp(place, &expected, sizeof(expected)) != 0;
      };
      ForEachPlace(tracked.table, i, compare);
      if (i % layout_.block_tokens == 0) compare(Summary(tracked.table, i));
    }
    ASSERT_EQ(wrong, 0);
  }

  void CheckAccounting() {
    std::map<BlockId, int> owners;
    for (const Tracked& tracked : tables_) {
      for (const BlockId block : tracked.table.blocks()) ++owners[block];
      const int tokens = tracked.table.num_tokens();
      const int held = static_cast<int>(tracked.table.blocks().size()) * layout_.block_tokens;
      ASSERT_GE(held, tokens);
    }
    const auto shared =
        std::count_if(owners.begin(), owners.end(), [](const auto& o) { return o.second > 1; });
    ASSERT_EQ(store_->stats().blocks_used, static_cast<int>(owners.size()));
    ASSERT_EQ(store_->stats().blocks_shared, static_cast<int>(shared));
    ASSERT_LE(store_->stats().blocks_kept, kept_);
  }

  HostBackend backend_;
  KvLayout layout_;
  std::mt19937_64 random_;
  int32_t kept_;  // blocks that may outlive their tables
  std::unique_ptr<KvStore> store_;
  std::vector<Tracked> tables_;  // destroyed before the store
  uint16_t next_marker_ = 0;
  int adopted_ = 0;
  int exhausted_ = 0;
};

TEST(KvStorePropertyTest, RandomOperationsKeepEveryTokenAndLeakNothing) {
  KvStoreModel(20240611, 16).Run();
}

TEST(KvStorePropertyTest, LargerBlocks) {
  KvStoreModel(7, 32).Run();
}

TEST(KvStorePropertyTest, BeginningsThatOutliveTheirTables) {
  KvStoreModel(11, 16, 12).Run();
}

}  // namespace
}  // namespace spotd::kvstore
