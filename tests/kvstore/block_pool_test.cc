#include "kvstore/block_pool.h"

#include <gtest/gtest.h>

namespace spotd::kvstore {
namespace {

TEST(BlockPoolTest, HandsOutTheLowestFreeBlockFirst) {
  BlockPool pool(4);
  for (BlockId expected = 0; expected < 4; ++expected) EXPECT_EQ(pool.Allocate(), expected);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  pool.Release(2);
  pool.Release(0);
  pool.Release(3);
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.Allocate(), 3);
}

TEST(BlockPoolTest, ABlockIsFreeWhenItsLastOwnerLetsGo) {
  BlockPool pool(1);
  const BlockId block = *pool.Allocate();
  pool.AddReference(block);
  pool.AddReference(block);
  EXPECT_EQ(pool.references(block), 3);
  EXPECT_EQ(pool.num_shared(), 1);
  pool.Release(block);
  EXPECT_EQ(pool.num_shared(), 1);
  pool.Release(block);
  EXPECT_EQ(pool.num_shared(), 0);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(block);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockPoolDeathTest, ReleasingAFreeBlockIsABug) {
  BlockPool pool(1);
  EXPECT_DEATH(pool.Release(0), "check failed");
  EXPECT_DEATH(pool.AddReference(0), "check failed");
}

}  // namespace
}  // namespace spotd::kvstore
