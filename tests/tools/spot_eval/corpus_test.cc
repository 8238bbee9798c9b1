#include "tools/spot_eval/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/runtime/formats/temp_file.h"

namespace spotd::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Root reads what nobody may; for a while it is somebody else.
class NotRoot {
 public:
  ~NotRoot() { EXPECT_EQ(seteuid(was_), 0); }

 private:
  const uid_t was_ = geteuid();
  const bool dropped_ = was_ == 0 && seteuid(65534) == 0;
};

TEST(TextFilesTest, FilesOfFoldersInOrder) {
  const formats::TempDir dir;
  fs::create_directory(dir.path() + "/sub");
  const std::string b = dir.Write("b.txt", "b");
  const std::string c = dir.Write("sub/c.txt", "c");
  const std::string a = dir.Write("a.txt", "a");
  fs::create_symlink("nowhere", dir.path() + "/dangling.txt");
  const auto files = TextFiles({dir.path()});
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(*files, ElementsAre(a, b, c));
}

TEST(TextFilesTest, AFolderThatCannotBeReadIsAnError) {
  const formats::TempDir dir;
  fs::permissions(dir.path(), fs::perms(0755));
  dir.Write("a.txt", "a");
  fs::create_directory(dir.path() + "/closed");
  fs::permissions(dir.path() + "/closed", fs::perms::none);
  {
    const NotRoot other;
    const auto files = TextFiles({dir.path()});
    ASSERT_FALSE(files.ok());
    EXPECT_THAT(std::string(files.status().message()), HasSubstr(dir.path()));
  }
  fs::permissions(dir.path() + "/closed", fs::perms::owner_all);
}

}  // namespace
}  // namespace spotd::eval
