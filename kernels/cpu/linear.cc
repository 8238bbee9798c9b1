#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstdint>
#include <new>

#include "kernels/core/check.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight.h"

namespace spotd::kernels {
namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kChunkRows = 512;  // bounds the scratch
constexpr int64_t kTaskRows = 64;    // rows of one task: their activations stay in the core's cache
constexpr int64_t kSerialRows =
    8;  // up to here, preparing the activations is not worth a loop of its own
constexpr int64_t kMaxTasksPerThread = 8;  // enough to even out threads that start late

// What a task should at least cost, in bytes of weights read: every task begins with a cold stream.
constexpr int64_t kMinTaskCost = 96 << 10;

// The activations of one chunk of rows, in the forms that the outputs' weights need.
struct Tiles {
  ActivationGroup* quantized = nullptr;
  const float* floats = nullptr;
};

const CpuWeight& WeightOf(const LinearOutput& output) {
  return static_cast<const CpuWeight&>(*output.weight);
}

bool AnyOutput(const LinearArgs& args, bool quantized) {
  return std::any_of(args.outputs, args.outputs + args.num_outputs, [&](const LinearOutput& out) {
    return IsQuantized(WeightOf(out).type()) == quantized;
  });
}

int64_t RoundUpRows(int64_t rows) {
  return (rows + kTileRows - 1) / kTileRows * kTileRows;
}

// Quantises or interleaves rows [first_row, first_row + rows) of the chunk, whole tiles.
class TileMaker {
 public:
  TileMaker(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch)
      : args_(args),
        pool_(pool),
        scratch_(scratch),
        quantized_(AnyOutput(args, true)),
        // A single row is its own tile.
        interleaved_(AnyOutput(args, false) && args.rows > 1) {}

  Tiles Make(int64_t first_row, int64_t rows) {
    const int64_t padded = RoundUpRows(rows);
    const size_t group_bytes =
        quantized_
            ? static_cast<size_t>(padded * args_.in_dim / kQuantGroup) * sizeof(ActivationGroup)
            : 0;
    const size_t float_bytes =
        interleaved_ ? static_cast<size_t>(padded * args_.in_dim) * sizeof(float) : 0;
    std::byte* const memory = scratch_.Reserve(group_bytes + float_bytes);
    const float* const x = static_cast<const float*>(args_.x) + first_row * args_.in_dim;
    auto* const groups = reinterpret_cast<ActivationGroup*>(memory);
    auto* const floats = reinterpret_cast<float*>(memory + group_bytes);
    const auto fill = [&](int64_t begin, int64_t end, int) {
      for (int64_t tile = begin; tile < end; ++tile) FillTile(x, rows, tile, groups, floats);
    };
    const int64_t num_tiles = padded / kTileRows;
    if (rows <= kSerialRows) {
      fill(0, num_tiles, 0);
    } else {
      pool_.ParallelFor(num_tiles, 1, fill);
    }
    return {groups, interleaved_ ? floats : x};
  }

 private:
  void FillTile(const float* x, int64_t rows, int64_t tile, ActivationGroup* groups,
                float* floats) const {
    const int64_t row = tile * kTileRows;
    const TileSource source = {x + row * args_.in_dim, args_.in_dim, args_.in_dim,
                               static_cast<int>(std::min<int64_t>(kTileRows, rows - row)),
                               TileWidth(rows - row)};
    if (quantized_) QuantizeTile(source, groups + row * args_.in_dim / kQuantGroup);
    if (interleaved_) InterleaveTile(source, floats + row * args_.in_dim);
  }

  const LinearArgs& args_;
  ThreadPool& pool_;
  LinearScratch& scratch_;
  bool quantized_;
  bool interleaved_;
};

struct RowChunk {
  int64_t first_row;
  int64_t rows;
  Tiles tiles;
};

// The work of one chunk of rows as a line of units, a unit being one panel of one output times one
// block of kTaskRows rows. All panels of all outputs, in their order, for the first block of rows,
// then for the next: a range of units reads contiguous weights.
class UnitLine {
 public:
  UnitLine(const LinearArgs& args, const RowChunk& chunk) : args_(args), chunk_(chunk) {
    for (int i = 0; i < args.num_outputs; ++i) {
      panels_ += NumPanels(args.outputs[i].weight->rows());
      bytes_ += static_cast<int64_t>(args.outputs[i].weight->bytes());
    }
    row_blocks_ = (chunk.rows + kTaskRows - 1) / kTaskRows;
  }

  int64_t size() const { return panels_ * row_blocks_; }

  // Units of a task: as many tasks for each thread as are worth their start.
  int64_t Grain(int threads) const {
    // From 4 rows on, arithmetic takes the time.
    const int64_t rows_cost = 1 + std::min(chunk_.rows, kTaskRows) / 4;
    const int64_t cost = bytes_ * rows_cost * row_blocks_;
    const int64_t per_thread =
        std::clamp<int64_t>(cost / (kMinTaskCost * threads), 1, kMaxTasksPerThread);
    const int64_t tasks = per_thread * threads;
    return (size() + tasks - 1) / tasks;
  }

  void Run(int64_t begin, int64_t end) const {
    while (begin < end) {
      const int64_t block = begin / panels_, first = begin % panels_;
      const int64_t last = std::min(panels_, first + end - begin);
      RunPanels(block * kTaskRows, first, last);
      begin += last - first;
    }
  }

 private:
  // Panels [begin, end) of the concatenated outputs.
  void RunPanels(int64_t row, int64_t begin, int64_t end) const {
    int64_t start = 0;  // of the output's panels
    for (int i = 0; i < args_.num_outputs && start < end; ++i) {
      const int64_t count = NumPanels(args_.outputs[i].weight->rows());
      const int64_t first = std::max<int64_t>(begin - start, 0);
      const int64_t last = std::min(end - start, count);
      if (first < last) Multiply(args_.outputs[i], row, first, last);
      start += count;
    }
  }

  void Multiply(const LinearOutput& output, int64_t row, int64_t first, int64_t last) const {
    const CpuWeight& weight = WeightOf(output);
    const bool quantized = IsQuantized(weight.type());
    const void* tiles = chunk_.tiles.floats + row * args_.in_dim;
    if (quantized) tiles = chunk_.tiles.quantized + row * args_.in_dim / kQuantGroup;
    const PanelProduct product = {
        .type = weight.type(),
        .panels = weight.panels(),
        .weight_rows = weight.rows(),
        .cols = weight.cols(),
        .first_panel = first,
        .end_panel = last,
        .tiles = tiles,
        .rows = std::min(kTaskRows, chunk_.rows - row),
        .bias = output.bias,
        .y = static_cast<float*>(output.y) + (chunk_.first_row + row) * weight.rows(),
        .accumulate = output.accumulate,
    };
    quantized ? MultiplyQuantizedPanels(product) : MultiplyFloatPanels(product);
  }

  const LinearArgs& args_;
  const RowChunk& chunk_;
  int64_t panels_ = 0;
  int64_t bytes_ = 0;
  int64_t row_blocks_ = 0;
};

}  // namespace

void LinearScratch::Free::operator()(std::byte* p) const {
  ::operator delete(p, std::align_val_t(kAlignment));
}

std::byte* LinearScratch::Reserve(size_t bytes) {
  if (bytes > bytes_) {
    data_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kAlignment))));
    bytes_ = bytes;
  }
  return data_.get();
}

void CpuLinear(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch) {
  for (int i = 0; i < args.num_outputs; ++i) {
    SPOTD_CHECK(args.outputs[i].weight->cols() == args.in_dim);
  }
  TileMaker tile_maker(args, pool, scratch);
  for (int64_t first_row = 0; first_row < args.rows; first_row += kChunkRows) {
    const int64_t rows = std::min<int64_t>(kChunkRows, args.rows - first_row);
    const RowChunk chunk = {first_row, rows, tile_maker.Make(first_row, rows)};
    const UnitLine units(args, chunk);
    pool.ParallelFor(units.size(), units.Grain(pool.num_threads()),
                     [&](int64_t begin, int64_t end, int) { units.Run(begin, end); });
  }
}

void CpuEmbed(const EmbedArgs& args, ThreadPool& pool) {
  const auto& table = static_cast<const CpuWeight&>(*args.table);
  pool.ParallelFor(args.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      SPOTD_CHECK(args.tokens[i] >= 0 && args.tokens[i] < table.rows());
      table.DecodeRow(args.tokens[i], static_cast<float*>(args.out) + i * table.cols());
    }
  });
}

}  // namespace spotd::kernels
