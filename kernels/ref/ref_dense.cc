#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/core/dequantize.h"
#include "kernels/core/status.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels::ref {
namespace {

// A weight as plain floats.
class RefWeight final : public Weight {
 public:
  RefWeight(int64_t rows, int64_t cols, std::vector<float> values)
      : Weight(rows, cols, values.size() * sizeof(float)), values_(std::move(values)) {}
  const float* row(int64_t r) const { return values_.data() + r * cols_; }

 private:
  std::vector<float> values_;
};

const RefWeight& Unwrap(const Weight* weight) {
  return static_cast<const RefWeight&>(*weight);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source) {
  const int block = GetDTypeInfo(source.type).block_elements;
  if (source.rows <= 0 || source.cols <= 0 || source.cols % block != 0) {
    return InvalidArgument(source.name, ": shape [", source.rows, ", ", source.cols,
                           "] does not fit type ", GetDTypeInfo(source.type).name);
  }
  const size_t row_bytes = RowBytes(source.type, source.cols);
  std::vector<float> values(static_cast<size_t>(source.rows * source.cols));
  for (int64_t r = 0; r < source.rows; ++r) {
    const int64_t from = source.row_order == nullptr ? r : source.row_order[r];
    if (from < 0 || from >= source.rows) {
      return InvalidArgument(source.name, ": row order names row ", from, " of ", source.rows);
    }
    DequantizeRow(source.type,
                  static_cast<const char*>(source.data) + static_cast<size_t>(from) * row_bytes,
                  values.data() + r * source.cols, source.cols);
  }
  return std::make_unique<RefWeight>(source.rows, source.cols, std::move(values));
}

void Embed(const EmbedArgs& args) {
  const RefWeight& table = Unwrap(args.table);
  for (int64_t i = 0; i < args.rows; ++i) {
    const float* const row = table.row(args.tokens[i]);
    for (int64_t c = 0; c < table.cols(); ++c) args.out[i * table.cols() + c] = row[c];
  }
}

void RmsNorm(const RmsNormArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* const x = args.x + r * args.dim;
    float* const out = static_cast<float*>(args.out) + r * args.dim;
    double sum = 0;
    for (int32_t i = 0; i < args.dim; ++i) sum += double{x[i]} * x[i];
    const double inverse = 1.0 / std::sqrt(sum / args.dim + args.eps);
    for (int32_t i = 0; i < args.dim; ++i) {
      out[i] = static_cast<float>(x[i] * inverse * args.weight[i]);
    }
  }
}

void Linear(const LinearArgs& args) {
  for (int32_t o = 0; o < args.num_outputs; ++o) {
    const LinearOutput& output = args.outputs[o];
    const RefWeight& weight = Unwrap(output.weight);
    for (int64_t r = 0; r < args.rows; ++r) {
      const float* const x = static_cast<const float*>(args.x) + r * args.in_dim;
      for (int64_t c = 0; c < weight.rows(); ++c) {
        double sum = output.bias == nullptr ? 0 : output.bias[c];
        for (int32_t i = 0; i < args.in_dim; ++i) sum += double{x[i]} * weight.row(c)[i];
        float& y = static_cast<float*>(output.y)[r * weight.rows() + c];
        y = static_cast<float>(output.accumulate ? y + sum : sum);
      }
    }
  }
}

void SwiGlu(const SwiGluArgs& args) {
  const auto* const gate = static_cast<const float*>(args.gate);
  const auto* const up = static_cast<const float*>(args.up);
  auto* const out = static_cast<float*>(args.out);
  for (int64_t i = 0; i < int64_t{args.rows} * args.dim; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

}  // namespace spotd::kernels::ref
