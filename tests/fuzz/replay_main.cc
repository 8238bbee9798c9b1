// Runs a fuzz target without libFuzzer: every file of the folders given, the same with each of its
// allocations in turn failing, then mutations of them from a fixed seed. A crash ends the test; it
// comes again in a debugger, for nothing is random.
//
//   replay MUTATIONS FOLDER...
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/allocation_failures.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

std::vector<Bytes> ReadFiles(const std::vector<std::string>& folders) {
  std::vector<fs::path> paths;
  for (const std::string& folder : folders) {
    if (!fs::is_directory(folder)) continue;
    for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> files;
  for (const fs::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

#ifdef SPOTD_PARSES_JSON
constexpr bool kParsesJson = true;
#else
constexpr bool kParsesJson = false;
#endif

void Run(const Bytes& input) {
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

// A parser answers a failed allocation with std::bad_alloc, and lets go of all it had.
int RunShortOfMemory(const Bytes& input) {
  return spotd::testing::FailEachAllocation([&] {
    try {
      Run(input);
    } catch (const std::bad_alloc&) {
    }
  });
}

// Values that sit on the edges of sizes and counts.
constexpr uint64_t kEdges[] = {0,
                               1,
                               0x7f,
                               0x80,
                               0xff,
                               0xffff,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0xffffffffffffffff};

Bytes Mutate(const std::vector<Bytes>& files, std::mt19937_64* random) {
  const auto below = [&](size_t n) { return static_cast<size_t>((*random)() % n); };
  Bytes bytes = files[below(files.size())];
  for (size_t edits = 1 + below(4); edits > 0; --edits) {
    const size_t at = below(bytes.size() + 1);
    switch (below(6)) {
      case 0:
        bytes.resize(at);
        break;
      case 1:
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                     static_cast<uint8_t>(below(256)));
        break;
      case 2: {  // an edge value over 1, 2, 4 or 8 bytes
        const uint64_t edge = kEdges[below(std::size(kEdges))];
        const size_t width = size_t{1} << below(4);
        for (size_t i = 0; i < width && at + i < bytes.size(); ++i) {
          bytes[at + i] = static_cast<uint8_t>(edge >> (8 * i));
        }
        break;
      }
      case 3: {  // a piece of another file
        const Bytes& other = files[below(files.size())];
        const size_t from = below(other.size() + 1);
        const size_t count = below(std::min<size_t>(64, other.size() - from) + 1);
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                     other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + count));
        break;
      }
      case 4:
        bytes.erase(
            bytes.begin() + static_cast<std::ptrdiff_t>(at),
            bytes.begin() + static_cast<std::ptrdiff_t>(std::min(at + below(32), bytes.size())));
        break;
      default:
        if (at < bytes.size()) bytes[at] ^= static_cast<uint8_t>(1u << below(8));
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::vector<Bytes> files = ReadFiles({argv + 2, argv + argc});
  if (files.empty()) {
    std::fprintf(stderr, "no seeds: run tests/fuzz/make_seeds.py\n");
    return 1;
  }
  int failures = 0;
  for (const Bytes& file : files) {
    Run(file);
    if (!kParsesJson) failures += RunShortOfMemory(file);
  }
  std::mt19937_64 random(1);
  const int mutations = std::atoi(argv[1]);
  for (int i = 0; i < mutations; ++i) Run(Mutate(files, &random));
  std::printf("%zu files, %d failed allocations and %d mutations\n", files.size(), failures,
              mutations);
  return 0;
}
