#include "kvstore/kv_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/kvstore/host_backend.h"

namespace spotd::kvstore {
namespace {

using ::testing::HasSubstr;

KvLayout SmallLayout() {
  KvLayout layout;
  layout.layers = 2;
  layout.kv_heads = 1;
  layout.head_dim = 8;
  return layout;
}

std::unique_ptr<KvStore> MakeStore(kernels::Backend* backend, const KvLayout& layout, int blocks) {
  auto store = KvStore::Create(backend, layout, blocks * layout.BytesPerBlock());
  EXPECT_TRUE(store.ok()) << store.status();
  return *std::move(store);
}

TEST(KvLayoutTest, BytesAreThoseOfTheDesign) {
  KvLayout layout;
  layout.layers = 36;
  layout.kv_heads = 8;
  layout.head_dim = 128;
  EXPECT_EQ(layout.KvBlockBytes(), 64u * 1024);
  EXPECT_EQ(layout.SummaryBlockBytes(), 4096u);
  EXPECT_EQ(layout.SelectorBlockBytes(), 0u);
  layout.selector_dim = 128;
  layout.selector_format = kernels::SelectorKeyFormat::kBf16;
  EXPECT_EQ(layout.SelectorBlockBytes(), 16u * 256);
  layout.selector_format = kernels::SelectorKeyFormat::kInt4;
  EXPECT_EQ(layout.SelectorBlockBytes(), 16u * 72);
  layout.selector_format = kernels::SelectorKeyFormat::kFp4;
  EXPECT_EQ(layout.SelectorBlockBytes(), 16u * 72);
  layout.summaries = false;
  EXPECT_EQ(layout.BytesPerBlock(), 36u * (64 * 1024 + 16 * 72));
}

TEST(KvStoreTest, TakesNoMoreMemoryThanItWasGiven) {
  HostBackend backend;
  KvLayout layout = SmallLayout();
  layout.selector_format = kernels::SelectorKeyFormat::kInt4;
  layout.selector_dim = 32;
  const size_t limit = 10 * layout.BytesPerBlock() + 17;
  auto store = KvStore::Create(&backend, layout, limit);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->stats().blocks_total, 10);
  EXPECT_EQ(backend.allocated(), 10 * layout.BytesPerBlock());
}

TEST(KvStoreTest, RefusesWhatItCannotLayOut) {
  HostBackend backend;
  const auto message = [&](auto change) {
    KvLayout layout = SmallLayout();
    change(&layout);
    const auto store = KvStore::Create(&backend, layout, 1 << 20);
    EXPECT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(store.status().message());
  };
  EXPECT_THAT(message([](KvLayout* l) { l->layers = 0; }), HasSubstr("layers"));
  EXPECT_THAT(message([](KvLayout* l) { l->kv_heads = -1; }), HasSubstr("kv_heads"));
  EXPECT_THAT(message([](KvLayout* l) { l->head_dim = 0; }), HasSubstr("head_dim"));
  EXPECT_THAT(message([](KvLayout* l) { l->block_tokens = 24; }), HasSubstr("block_tokens"));
  EXPECT_THAT(message([](KvLayout* l) {
                l->selector_format = kernels::SelectorKeyFormat::kInt4;
                l->selector_dim = 0;
              }),
              HasSubstr("selector_dim"));
  const auto tiny = KvStore::Create(&backend, SmallLayout(), SmallLayout().BytesPerBlock() - 1);
  EXPECT_EQ(tiny.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KvStoreTest, SaysSoWhenTheBackendHasNoRoom) {
  HostBackend backend(/*capacity=*/3000);
  const auto store = KvStore::Create(&backend, SmallLayout(), 1 << 20);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(KvStoreTest, AnExhaustedPoolLeavesTheTableUnchanged) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 3);
  BlockTable table = store->NewTable();
  ASSERT_TRUE(store->Reserve(&table, 40).ok());
  store->Commit(&table, 40);
  const std::vector<BlockId> before = table.blocks();
  EXPECT_EQ(store->BlocksNeeded(table, 9), 1);
  EXPECT_EQ(store->Reserve(&table, 9).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table.blocks(), before);
  EXPECT_EQ(table.num_tokens(), 40);
  EXPECT_TRUE(store->Reserve(&table, 8).ok());
}

TEST(KvStoreTest, AForkCopiesOnlyTheBlockItWritesInto) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  BlockTable parent = store->NewTable();
  ASSERT_TRUE(store->Reserve(&parent, 40).ok());
  store->Commit(&parent, 40);
  BlockTable fork = store->Fork(parent);
  EXPECT_EQ(fork.blocks(), parent.blocks());
  EXPECT_EQ(store->stats().blocks_used, 3);
  EXPECT_EQ(store->stats().blocks_shared, 3);
  EXPECT_EQ(store->ExclusiveBlocks(fork), 0);

  EXPECT_EQ(store->BlocksNeeded(fork, 1), 1);
  ASSERT_TRUE(store->Reserve(&fork, 1).ok());
  EXPECT_EQ(store->stats().copies_on_write, 1u);
  EXPECT_EQ(fork.blocks()[1], parent.blocks()[1]);
  EXPECT_NE(fork.blocks()[2], parent.blocks()[2]);
  EXPECT_EQ(store->ExclusiveBlocks(fork), 1);
  // The parent is the only owner left of its last block: no copy for it.
  EXPECT_EQ(store->BlocksNeeded(parent, 1), 0);
}

TEST(KvStoreTest, AForkAtABlockBoundaryCopiesNothing) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  BlockTable parent = store->NewTable();
  ASSERT_TRUE(store->Reserve(&parent, 40).ok());
  store->Commit(&parent, 32);
  BlockTable fork = store->Fork(parent);
  EXPECT_EQ(fork.blocks().size(), 2u);  // the reserved block stays with the parent
  ASSERT_TRUE(store->Reserve(&fork, 1).ok());
  EXPECT_EQ(store->stats().copies_on_write, 0u);
}

TEST(KvStoreTest, ReservedBlocksComeBack) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  BlockTable table = store->NewTable();
  ASSERT_TRUE(store->Reserve(&table, 100).ok());
  EXPECT_EQ(store->stats().blocks_used, 7);
  store->Commit(&table, 17);
  store->Truncate(&table, 17);
  EXPECT_EQ(store->stats().blocks_used, 2);
  store->Truncate(&table, 0);
  EXPECT_EQ(store->stats().blocks_used, 0);
}

TEST(BlockTableTest, MovingTransfersOwnership) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  BlockTable a = store->NewTable();
  ASSERT_TRUE(store->Reserve(&a, 32).ok());
  store->Commit(&a, 20);
  BlockTable b = std::move(a);
  EXPECT_EQ(b.num_tokens(), 20);
  BlockTable c = store->NewTable();
  ASSERT_TRUE(store->Reserve(&c, 16).ok());
  EXPECT_EQ(store->stats().blocks_used, 3);
  c = std::move(b);
  EXPECT_EQ(store->stats().blocks_used, 2);
  c = BlockTable();
  EXPECT_EQ(store->stats().blocks_used, 0);
}

std::vector<int32_t> Sequence(int tokens, int first = 0) {
  std::vector<int32_t> out(tokens);
  for (int i = 0; i < tokens; ++i) out[i] = first + i;
  return out;
}

TEST(KvStorePrefixTest, WholeBlocksOfTheSameTokensAreSharedWithinAnOwner) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  const std::vector<int32_t> tokens = Sequence(50);
  BlockTable first = store->NewTable();
  ASSERT_TRUE(store->Reserve(&first, 50).ok());
  store->CommitShareable(&first, 20, "a", std::span(tokens).first(20));
  store->CommitShareable(&first, 30, "a", tokens);
  EXPECT_EQ(store->stats().blocks_offered, 3) << "the fourth is not whole";

  BlockTable second = store->NewTable();
  EXPECT_EQ(store->AdoptPrefix(&second, "b", tokens), 0) << "another owner's";
  EXPECT_EQ(store->AdoptPrefix(&second, "a", Sequence(50, 1)), 0) << "other tokens";
  EXPECT_EQ(store->AdoptPrefix(&second, "a", std::span(tokens).first(47)), 32);
  EXPECT_EQ(second.num_tokens(), 32);
  EXPECT_EQ(second.blocks()[1], first.blocks()[1]);
  EXPECT_EQ(store->stats().blocks_used, 4);
  EXPECT_EQ(store->stats().copies_on_write, 0u);
  EXPECT_EQ(store->AdoptPrefix(&second, "a", tokens), 16) << "from where it stands";
  first = store->NewTable();
  EXPECT_EQ(store->stats().blocks_offered, 3) << "as long as some table has them";
  second = store->NewTable();
  EXPECT_EQ(store->stats().blocks_offered, 0);
}

TEST(KvStorePrefixTest, OfferedBlocksMayOutliveTheirTables) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  store->KeepPrefixes(3);
  const std::vector<int32_t> tokens = Sequence(64);
  const auto fill = [&](std::span<const int32_t> with) {
    BlockTable table = store->NewTable();
    EXPECT_TRUE(store->Reserve(&table, static_cast<int32_t>(with.size())).ok());
    store->CommitShareable(&table, static_cast<int32_t>(with.size()), "a", with);
    return table;
  };
  fill(tokens);
  EXPECT_EQ(store->stats().blocks_used, 0);
  EXPECT_EQ(store->stats().blocks_kept, 3) << "as many as may; the last of the four went first";
  BlockTable second = store->NewTable();
  EXPECT_EQ(store->AdoptPrefix(&second, "b", tokens), 0);
  EXPECT_EQ(store->AdoptPrefix(&second, "a", tokens), 48);
  EXPECT_EQ(store->stats().blocks_used, 3);
  EXPECT_EQ(store->stats().blocks_kept, 0);
  second = store->NewTable();
  EXPECT_EQ(store->stats().blocks_kept, 3);
  EXPECT_EQ(store->stats().kept_given_up, 1u);

  // They count as free, and are taken when nothing else is left, the end of the beginning first.
  ASSERT_TRUE(store->Reserve(&second, 96).ok());
  EXPECT_EQ(store->stats().blocks_kept, 2);
  EXPECT_EQ(store->stats().kept_given_up, 2u);
  BlockTable third = store->NewTable();
  EXPECT_EQ(store->AdoptPrefix(&third, "a", tokens), 32);
  EXPECT_FALSE(store->Reserve(&third, 16).ok()) << "all are in use";
  third = store->NewTable();
  ASSERT_TRUE(store->Reserve(&third, 32).ok());
  EXPECT_EQ(store->stats().blocks_offered, 0);
  EXPECT_EQ(store->stats().blocks_used, 8);
  EXPECT_EQ(store->stats().kept_given_up, 4u) << "those adopted meanwhile were not";
}

TEST(KvStorePrefixTest, WhatADecodeStepWroteAndAllAfterItIsNotOffered) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  const std::vector<int32_t> tokens = Sequence(48);
  BlockTable table = store->NewTable();
  ASSERT_TRUE(store->Reserve(&table, 48).ok());
  store->CommitShareable(&table, 16, "a", tokens);
  store->Commit(&table, 1);
  store->CommitShareable(&table, 31, "a", tokens);
  EXPECT_EQ(store->stats().blocks_offered, 1);
  EXPECT_EQ(store->AdoptPrefix(&table, "a", tokens), 0) << "nothing is built upon it either";
  BlockTable other = store->NewTable();
  EXPECT_EQ(store->AdoptPrefix(&other, "a", tokens), 16);
}

TEST(KvStorePrefixTest, ABlockThatIsWrittenAgainIsNoLongerOffered) {
  HostBackend backend;
  auto store = MakeStore(&backend, SmallLayout(), 8);
  const std::vector<int32_t> tokens = Sequence(32);
  BlockTable table = store->NewTable();
  ASSERT_TRUE(store->Reserve(&table, 32).ok());
  store->CommitShareable(&table, 32, "a", tokens);
  store->Truncate(&table, 20);
  EXPECT_EQ(store->stats().blocks_offered, 2) << "nothing has been written yet";
  ASSERT_TRUE(store->Reserve(&table, 1).ok());
  EXPECT_EQ(store->stats().blocks_offered, 1);
  BlockTable other = store->NewTable();
  EXPECT_EQ(store->AdoptPrefix(&other, "a", tokens), 16);
}

}  // namespace
}  // namespace spotd::kvstore
