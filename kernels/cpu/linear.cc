#include "kernels/cpu/linear.h"

#include <algorithm>
#include <array>
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
constexpr int64_t kTasksPerThread = 8;  // enough to even out threads that start late
constexpr int64_t kMinTaskBytes =
    8192;  // of weights: below, claiming a task costs more than it evens out

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

// One output cut into tasks of `panels` panels by kTaskRows rows. Tasks of the same panels follow
// each other.
struct OutputPlan {
  int64_t first_task = 0;
  int64_t panels = 1;
  int64_t row_blocks = 1;
};

class TaskPlan {
 public:
  TaskPlan(const LinearArgs& args, int64_t rows, int threads) : num_outputs_(args.num_outputs) {
    const int64_t row_blocks = (rows + kTaskRows - 1) / kTaskRows;
    int64_t all_panels = 0;
    for (int i = 0; i < num_outputs_; ++i) all_panels += NumPanels(args.outputs[i].weight->rows());
    const int64_t wanted = std::max<int64_t>(1, all_panels / (threads * kTasksPerThread));
    for (int i = 0; i < num_outputs_; ++i) {
      const CpuWeight& weight = WeightOf(args.outputs[i]);
      const auto panel_bytes = static_cast<int64_t>(PanelBytes(weight.type(), weight.cols()));
      const int64_t least = (kMinTaskBytes + panel_bytes - 1) / panel_bytes;
      plans_[i] = {num_tasks_, std::max(wanted, least), row_blocks};
      num_tasks_ +=
          (NumPanels(weight.rows()) + plans_[i].panels - 1) / plans_[i].panels * row_blocks;
    }
  }

  int64_t num_tasks() const { return num_tasks_; }

  int OutputOf(int64_t task) const {
    int i = num_outputs_ - 1;
    while (task < plans_[i].first_task) --i;
    return i;
  }
  const OutputPlan& plan(int output) const { return plans_[output]; }

 private:
  int num_outputs_;
  int64_t num_tasks_ = 0;
  std::array<OutputPlan, kMaxLinearOutputs> plans_;
};

struct RowChunk {
  int64_t first_row;
  int64_t rows;
  Tiles tiles;
};

void RunTask(const LinearArgs& args, const TaskPlan& tasks, const RowChunk& chunk, int64_t task) {
  const int index = tasks.OutputOf(task);
  const OutputPlan& plan = tasks.plan(index);
  const LinearOutput& output = args.outputs[index];
  const CpuWeight& weight = WeightOf(output);
  const int64_t local = task - plan.first_task;
  const int64_t panel = local / plan.row_blocks * plan.panels;
  const int64_t row = local % plan.row_blocks * kTaskRows;
  const bool quantized = IsQuantized(weight.type());
  const void* tiles = chunk.tiles.floats + row * args.in_dim;
  if (quantized) tiles = chunk.tiles.quantized + row * args.in_dim / kQuantGroup;
  const PanelProduct product = {
      .type = weight.type(),
      .panels = weight.panels(),
      .weight_rows = weight.rows(),
      .cols = weight.cols(),
      .first_panel = panel,
      .end_panel = std::min(panel + plan.panels, NumPanels(weight.rows())),
      .tiles = tiles,
      .rows = std::min(kTaskRows, chunk.rows - row),
      .bias = output.bias,
      .y = static_cast<float*>(output.y) + (chunk.first_row + row) * weight.rows(),
      .accumulate = output.accumulate,
  };
  quantized ? MultiplyQuantizedPanels(product) : MultiplyFloatPanels(product);
}

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
    const TaskPlan tasks(args, rows, pool.num_threads());
    pool.ParallelFor(tasks.num_tasks(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t task = begin; task < end; ++task) RunTask(args, tasks, chunk, task);
    });
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
