#include "kvstore/block_pool.h"

#include <gtest/gtest.h>

namespace spotd::kvstore {
namespace {

// As one owner of the block.
void LetGo(BlockPool* pool, BlockId block) {
  if (pool->Unreference(block)) pool->Free(block);
}

TEST(BlockPoolTest, HandsOutTheLowestFreeBlockFirst) {
  BlockPool pool(4);
  for (BlockId expected = 0; expected < 4; ++expected) EXPECT_EQ(pool.Allocate(), expected);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  LetGo(&pool, 2);
  LetGo(&pool, 0);
  LetGo(&pool, 3);
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
  LetGo(&pool, block);
  EXPECT_EQ(pool.num_shared(), 1);
  LetGo(&pool, block);
  EXPECT_EQ(pool.num_shared(), 0);
  EXPECT_EQ(pool.num_free(), 0);
  LetGo(&pool, block);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockPoolDeathTest, ReleasingAFreeBlockIsABug) {
  BlockPool pool(1);
  EXPECT_DEATH((void)pool.Unreference(0), "check failed");
  EXPECT_DEATH(pool.AddReference(0), "check failed");
}

}  // namespace
}  // namespace spotd::kvstore
