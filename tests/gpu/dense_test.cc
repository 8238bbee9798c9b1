#include <tuple>

#include "tests/gpu/device.h"

namespace spotd::kernels {
namespace {

std::unique_ptr<Weight> MakeWeight(Device& device, const std::vector<float>& values, int64_t rows,
                                   const int32_t* order = nullptr) {
  WeightSource source;
  source.name = "w";
  source.rows = rows;
  source.cols = static_cast<int64_t>(values.size()) / rows;
  source.type = DType::kF32;
  source.data = values.data();
  source.row_order = order;
  auto weight = device->CreateWeight(source);
  EXPECT_TRUE(weight.ok()) << weight.status();
  return *std::move(weight);
}

TEST(DenseTest, EmbedLooksRowsUp) {
  const std::vector<float> table = RandomActs(100 * 72, 1);
  const std::vector<int32_t> tokens = {0, 99, 7, 7, 42};
  std::vector<std::vector<float>> results;
  for (Device* device : {&Reference(), &Gpu()}) {
    auto weight = MakeWeight(*device, table, 100);
    Buffer ids = device->Put(tokens);
    Buffer out = device->MakePoisoned(tokens.size() * 72 * sizeof(float));
    (*device)->Embed({weight.get(), ids.as<int32_t>(), 5, out.as<float>()});
    results.push_back(device->Get<float>(out));
  }
  EXPECT_TRUE(SameBits(results[0], results[1]));
}

TEST(DenseTest, RmsNorm) {
  for (const int32_t dim : {1, 3, 64, 576, 896, 4096, 5120, 8192, 8200}) {
    for (const int32_t rows : {1, 5}) {
      std::vector<std::vector<float>> results;
      for (Device* device : {&Reference(), &Gpu()}) {
        Buffer x = device->Put(RandomFloats(static_cast<size_t>(rows * dim), 2, 0.1f, 3.0f));
        Buffer weight = device->Put(RandomFloats(static_cast<size_t>(dim), 3, 1.0f, 0.3f));
        Buffer out = device->MakePoisonedActs(static_cast<size_t>(rows * dim));
        (*device)->RmsNorm({x.as<float>(), weight.as<float>(), rows, dim, 1e-6f, out.data()});
        results.push_back(device->GetActs(out));
      }
      EXPECT_LT(RelativeError(results[1], results[0]), kBf16Error) << dim << " x " << rows;
    }
  }
}

TEST(DenseTest, SwiGlu) {
  for (const int32_t dim : {1, 7, 64, 1536, 12288}) {
    std::vector<std::vector<float>> results;
    for (Device* device : {&Reference(), &Gpu()}) {
      Buffer gate = device->PutActs(RandomActs(static_cast<size_t>(3 * dim), 4, 4.0f));
      Buffer up = device->PutActs(RandomActs(static_cast<size_t>(3 * dim), 5));
      (*device)->SwiGlu({gate.data(), up.data(), 3, dim, gate.data()});
      results.push_back(device->GetActs(gate));
    }
    EXPECT_LT(RelativeError(results[1], results[0]), kBf16Error) << dim;
  }
}

struct LinearCase {
  int32_t rows;
  int32_t in_dim;
  std::vector<int32_t> out_dims;
};

// Output 0 is plain, 1 has a bias, 2 accumulates into float; `logits` makes all of them float.
std::vector<std::vector<float>> RunLinear(Device& device, const LinearCase& c, bool logits) {
  Buffer x = device.PutActs(RandomActs(static_cast<size_t>(c.rows * c.in_dim), 6));
  LinearArgs args = {};
  args.x = x.data();
  args.rows = c.rows;
  args.in_dim = c.in_dim;
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<Buffer> outputs;
  Buffer bias = device.Put(RandomFloats(8192, 7));
  for (const int32_t out_dim : c.out_dims) {
    const int i = args.num_outputs++;
    const auto count = static_cast<size_t>(c.rows) * static_cast<size_t>(out_dim);
    weights.push_back(MakeWeight(
        device, RandomActs(static_cast<size_t>(out_dim) * c.in_dim, 8u + i, 0.05f), out_dim));
    const bool accumulate = i == 2;
    outputs.push_back(accumulate ? device.Put(RandomFloats(count, 9))
                      : logits   ? device.MakePoisoned(count * 4)
                                 : device.MakePoisonedActs(count));
    args.outputs[i] = {weights.back().get(), i == 1 ? bias.as<float>() : nullptr,
                       outputs.back().data(), accumulate};
  }
  logits ? device->Logits(args) : device->Linear(args);
  std::vector<std::vector<float>> results;
  for (size_t i = 0; i < outputs.size(); ++i) {
    results.push_back(i == 2 || logits ? device.Get<float>(outputs[i])
                                       : device.GetActs(outputs[i]));
  }
  return results;
}

void ExpectTheReferencesProducts(const std::vector<LinearCase>& cases) {
  for (const LinearCase& c : cases) {
    for (const bool logits : {false, true}) {
      const auto expected = RunLinear(Reference(), c, logits);
      const auto actual = RunLinear(Gpu(), c, logits);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_LT(RelativeError(actual[i], expected[i]), kBf16Error)
            << c.rows << " rows, " << c.in_dim << " -> " << c.out_dims[i]
            << (logits ? " logits" : "");
      }
    }
  }
}

TEST(DenseTest, Linear) {
  ExpectTheReferencesProducts({{1, 4096, {512, 128, 256}},
                               {3, 64, {16, 24, 8}},
                               {8, 576, {576, 192, 192}},
                               {9, 104, {40, 4, 100}},
                               {17, 33, {10, 11, 12}},
                               {33, 896, {896, 128, 96}},
                               {64, 256, {200, 300, 136}},
                               {200, 512, {64, 100, 72}}});
}

// Those of linear_even.cu: ever more strips an SM, ragged ends, two tiles of rows.
TEST(DenseTest, LinearOfEvenInputs) {
  ExpectTheReferencesProducts({{6, 2048, {100, 20, 4}},
                               {3, 1024, {100, 20, 4}},
                               {5, 3072, {4096, 1024, 1608}},
                               {8, 1024, {4096, 4096, 1024}},
                               {9, 1024, {40, 4, 100}},
                               {16, 4096, {512, 128, 256}}});
}

// Of many rows, where cuBLASLt is there: its kernels are not for racecheck, which fails in them.
TEST(DenseTest, LinearByTheLibrary) {
  ExpectTheReferencesProducts(
      {{200, 512, {64, 128, 72}}, {300, 512, {264, 128, 4}}, {257, 576, {1536, 200, 576}}});
}

struct GatedShape {
  int32_t rows;
  int32_t in_dim;
  int32_t dim;
};

// Fused, the gated product rounds as its two steps do.
void ExpectItsTwoSteps(const std::vector<GatedShape>& shapes) {
  for (const GatedShape& c : shapes) {
    const auto elements = static_cast<size_t>(c.in_dim) * static_cast<size_t>(c.dim);
    auto gate = MakeWeight(Gpu(), RandomActs(elements, 13, 0.1f), c.dim);
    auto up = MakeWeight(Gpu(), RandomActs(elements, 14, 0.1f), c.dim);
    Buffer x = Gpu().PutActs(RandomActs(static_cast<size_t>(c.rows * c.in_dim), 15));
    std::vector<std::vector<float>> results;
    for (const bool fused : {false, true}) {
      const auto count = static_cast<size_t>(c.rows * c.dim);
      Buffer gates = Gpu().MakePoisonedActs(count);
      Buffer ups = Gpu().MakePoisonedActs(count);
      LinearArgs args = {};
      args.x = x.data();
      args.rows = c.rows;
      args.in_dim = c.in_dim;
      args.num_outputs = 2;
      args.outputs[0] = {gate.get(), nullptr, gates.data(), false};
      args.outputs[1] = {up.get(), nullptr, ups.data(), false};
      const SwiGluArgs swiglu = {gates.data(), ups.data(), c.rows, c.dim, gates.data()};
      if (fused) {
        Gpu()->LinearSwiGlu(args, swiglu);
      } else {
        Gpu()->Linear(args);
        Gpu()->SwiGlu(swiglu);
      }
      results.push_back(Gpu().GetActs(gates));
    }
    EXPECT_TRUE(SameBits(results[0], results[1])) << c.rows << " x " << c.in_dim;
  }
}

TEST(DenseTest, LinearSwiGluIsItsTwoStepsToTheBit) {
  ExpectItsTwoSteps({{1, 4096, 1536},
                     {3, 576, 1540},
                     {6, 1024, 5003},
                     {8, 64, 7},
                     {12, 2048, 20},
                     {17, 33, 20},
                     {40, 896, 100}});
}

TEST(DenseTest, LinearSwiGluByTheLibrary) {
  ExpectItsTwoSteps({{300, 512, 264}});
}

// The property that makes a request's tokens independent of its neighbours.
void ExpectRowsNotToDependOnTheirNumber(int32_t in_dim, int32_t out_dim) {
  const std::vector<float> x = RandomActs(static_cast<size_t>(256 * in_dim), 10);
  auto weight = MakeWeight(
      Gpu(), RandomActs(static_cast<size_t>(out_dim) * static_cast<size_t>(in_dim), 11, 0.05f),
      out_dim);
  std::vector<float> first;
  for (const int32_t rows : {1, 2, 8, 9, 16, 31, 64, 65, 256}) {
    Buffer in = Gpu().PutActs(
        std::vector<float>(x.end() - rows * in_dim, x.end()));  // the last row is the same
    Buffer out = Gpu().MakePoisoned(static_cast<size_t>(rows * out_dim) * 4);
    LinearArgs args = {};
    args.x = in.data();
    args.rows = rows;
    args.in_dim = in_dim;
    args.num_outputs = 1;
    args.outputs[0] = {weight.get(), nullptr, out.data(), false};
    Gpu()->Logits(args);
    const std::vector<float> all = Gpu().Get<float>(out);
    const std::vector<float> last(all.end() - out_dim, all.end());
    if (first.empty()) first = last;
    EXPECT_TRUE(SameBits(first, last)) << rows << " rows, " << in_dim << " -> " << out_dim;
  }
}

TEST(DenseTest, LinearRowsDoNotDependOnTheirNumber) {
  ExpectRowsNotToDependOnTheirNumber(576, 96);
  ExpectRowsNotToDependOnTheirNumber(1024, 96);
  ExpectRowsNotToDependOnTheirNumber(2048, 96);
  ExpectRowsNotToDependOnTheirNumber(1024, 6700);
  ExpectRowsNotToDependOnTheirNumber(1024, 8700);
}

TEST(DenseTest, WeightsKeepTheOrderAskedFor) {
  const std::vector<float> values = RandomActs(6 * 32, 12);
  const std::vector<int32_t> order = {5, 0, 3, 1, 4, 2};
  const std::vector<int32_t> tokens = {0, 1, 2, 3, 4, 5};
  auto weight = MakeWeight(Gpu(), values, 6, order.data());
  Buffer ids = Gpu().Put(tokens);
  Buffer out = Gpu().MakePoisoned(values.size() * 4);
  Gpu()->Embed({weight.get(), ids.as<int32_t>(), 6, out.as<float>()});
  const std::vector<float> rows = Gpu().Get<float>(out);
  for (size_t r = 0; r < 6; ++r) {
    EXPECT_EQ(rows[r * 32], values[static_cast<size_t>(order[r]) * 32]);
  }
}

TEST(DenseTest, RefusesWhatDoesNotFit) {
  WeightSource source;
  source.name = "blk.0.weight";
  source.rows = 4;
  source.cols = 33;
  source.type = DType::kQ8_0;
  const std::vector<uint8_t> bytes(1024);
  source.data = bytes.data();
  const auto weight = Gpu()->CreateWeight(source);
  EXPECT_EQ(weight.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(weight.status().message()).find("blk.0.weight"), std::string::npos);
  const auto buffer = Gpu()->Allocate(size_t{1} << 50);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Gpu()->Synchronize().ok());
}

}  // namespace
}  // namespace spotd::kernels
