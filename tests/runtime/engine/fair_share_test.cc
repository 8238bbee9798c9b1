#include "runtime/engine/fair_share.h"

#include <gtest/gtest.h>

namespace spotd::engine {
namespace {

TEST(FairShareTest, WhoComesBackEarnsNoCreditForItsAbsence) {
  FairShare share;
  share.Enter("a");
  share.Charge("a", 1000);
  EXPECT_EQ(share.served("a"), 1000);
  share.Enter("b");
  EXPECT_EQ(share.served("b"), 1000) << "level with the least served";
  share.Charge("b", 10);
  share.Enter("c");
  EXPECT_EQ(share.served("c"), 1000);
  share.Leave("b");
  share.Enter("b");
  EXPECT_EQ(share.served("b"), 1000);
}

TEST(FairShareTest, KeepsTheAccountWhileOneRequestIsLeft) {
  FairShare share;
  share.Enter("a");
  share.Enter("a");
  share.Begin("a");
  share.Charge("a", 7);
  share.Leave("a");
  EXPECT_EQ(share.served("a"), 7);
  EXPECT_EQ(share.running("a"), 1);
  share.Stop("a");
  share.Leave("a");
  share.Enter("a");
  EXPECT_EQ(share.served("a"), 0) << "alone again";
  EXPECT_EQ(share.running("a"), 0);
}

}  // namespace
}  // namespace spotd::engine
