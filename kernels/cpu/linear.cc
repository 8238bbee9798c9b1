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
// The rows of a call are taken in chunks, and the chunks' activations share the scratch.
constexpr int64_t kMaxChunkRows = 512;
constexpr size_t kMaxScratchBytes = size_t{48} << 20;

constexpr int64_t kTaskRows = 64;  // rows of one task: their activations stay in the core's cache
constexpr int64_t kMaxTasksPerThread = 8;  // enough to even out threads that start late

// What a task should at least cost, in bytes of weights read: every task begins with a cold stream.
constexpr int64_t kMinTaskCost = 96 << 10;

const CpuWeight& WeightOf(const LinearOutput& output) {
  return static_cast<const CpuWeight&>(*output.weight);
}

bool AnyOutput(const LinearArgs& args, bool quantized) {
  return std::any_of(args.outputs, args.outputs + args.num_outputs, [&](const LinearOutput& out) {
    return IsQuantized(WeightOf(out).type()) == quantized;
  });
}

struct RowChunk {
  int64_t first_row;
  int64_t rows;
};

// The activations of one chunk of rows, in the forms that the outputs' weights need.
struct Tiles {
  ActivationGroup* quantized = nullptr;
  float* interleaved = nullptr;
  const float* floats = nullptr;  // for float weights: `interleaved`, or a single row as it is
};

// Rows whose activations fit the scratch in both forms.
int64_t ChunkRows(int64_t in_dim) {
  const size_t row_bytes = static_cast<size_t>(in_dim) * sizeof(float) +
                           static_cast<size_t>(in_dim) / kQuantGroup * sizeof(ActivationGroup);
  const auto rows = static_cast<int64_t>(kMaxScratchBytes / row_bytes);
  return std::clamp(rows / kTaskRows * kTaskRows, kTaskRows, kMaxChunkRows);
}

class TileMaker {
 public:
  TileMaker(const LinearArgs& args, const RowChunk& chunk)
      : args_(args),
        rows_(chunk.rows),
        x_(static_cast<const float*>(args.x) + chunk.first_row * args.in_dim) {
    const int64_t elements = num_tiles() * kTileRows * args.in_dim;
    if (AnyOutput(args, true)) {
      quantized_bytes_ = static_cast<size_t>(elements / kQuantGroup) * sizeof(ActivationGroup);
    }
    // A single row is its own tile.
    if (rows_ > 1 && AnyOutput(args, false)) {
      interleaved_bytes_ = static_cast<size_t>(elements) * sizeof(float);
    }
  }

  int64_t num_tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  size_t bytes() const {
    return (quantized_bytes_ + interleaved_bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  }

  // Tiles in `memory`, of bytes(), not filled.
  Tiles Place(std::byte* memory) const {
    Tiles tiles;
    tiles.floats = x_;
    if (quantized_bytes_ > 0) tiles.quantized = reinterpret_cast<ActivationGroup*>(memory);
    if (interleaved_bytes_ > 0) {
      tiles.interleaved = reinterpret_cast<float*>(memory + quantized_bytes_);
      tiles.floats = tiles.interleaved;
    }
    return tiles;
  }

  void Fill(int64_t tile, const Tiles& tiles) const {
    const int64_t row = tile * kTileRows;
    const TileSource source = {x_ + row * args_.in_dim, args_.in_dim, args_.in_dim,
                               static_cast<int>(std::min<int64_t>(kTileRows, rows_ - row)),
                               TileWidth(rows_ - row)};
    const int64_t offset = row * args_.in_dim;
    if (tiles.quantized != nullptr) QuantizeTile(source, tiles.quantized + offset / kQuantGroup);
    if (tiles.interleaved != nullptr) InterleaveTile(source, tiles.interleaved + offset);
  }

 private:
  const LinearArgs& args_;
  int64_t rows_;
  const float* x_;
  size_t quantized_bytes_ = 0;
  size_t interleaved_bytes_ = 0;
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

  void Run(int64_t begin, int64_t end, const Tiles& tiles) const {
    while (begin < end) {
      const int64_t block = begin / panels_, first = begin % panels_;
      const int64_t last = std::min(panels_, first + end - begin);
      RunPanels(tiles, block * kTaskRows, first, last);
      begin += last - first;
    }
  }

 private:
  // Panels [begin, end) of the concatenated outputs.
  void RunPanels(const Tiles& tiles, int64_t row, int64_t begin, int64_t end) const {
    int64_t start = 0;  // of the output's panels
    for (int i = 0; i < args_.num_outputs && start < end; ++i) {
      const int64_t count = NumPanels(args_.outputs[i].weight->rows());
      const int64_t first = std::max<int64_t>(begin - start, 0);
      const int64_t last = std::min(end - start, count);
      if (first < last) Multiply(args_.outputs[i], tiles, row, first, last);
      start += count;
    }
  }

  void Multiply(const LinearOutput& output, const Tiles& tiles, int64_t row, int64_t first,
                int64_t last) const {
    const CpuWeight& weight = WeightOf(output);
    const bool quantized = IsQuantized(weight.type());
    const void* row_tiles = tiles.floats + row * args_.in_dim;
    if (quantized) row_tiles = tiles.quantized + row * args_.in_dim / kQuantGroup;
    const PanelProduct product = {
        .type = weight.type(),
        .panels = weight.panels(),
        .weight_rows = weight.rows(),
        .cols = weight.cols(),
        .first_panel = first,
        .end_panel = last,
        .tiles = row_tiles,
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

// Up to one tile of rows: every thread prepares the activations for itself, which costs less than
// to wait for another thread's and to fetch them from its cache.
void LinearFewRows(const LinearArgs& args, const RowChunk& chunk, ThreadPool& pool,
                   LinearScratch& scratch) {
  const TileMaker maker(args, chunk);
  const UnitLine units(args, chunk);
  const int threads = pool.num_threads();
  scratch.Reserve(maker.bytes() * static_cast<size_t>(threads));
  scratch.BeginPrivateTiles(threads);
  pool.ParallelFor(units.size(), units.Grain(threads), [&](int64_t begin, int64_t end, int thread) {
    const Tiles tiles = maker.Place(scratch.data() + maker.bytes() * static_cast<size_t>(thread));
    if (scratch.ClaimPrivateTile(thread)) maker.Fill(0, tiles);
    units.Run(begin, end, tiles);
  });
}

void LinearManyRows(const LinearArgs& args, const RowChunk& chunk, ThreadPool& pool,
                    LinearScratch& scratch) {
  const TileMaker maker(args, chunk);
  const UnitLine units(args, chunk);
  scratch.Reserve(maker.bytes());
  const Tiles tiles = maker.Place(scratch.data());
  pool.ParallelFor(maker.num_tiles(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) maker.Fill(tile, tiles);
  });
  pool.ParallelFor(units.size(), units.Grain(pool.num_threads()),
                   [&](int64_t begin, int64_t end, int) { units.Run(begin, end, tiles); });
}

}  // namespace

void LinearScratch::Free::operator()(std::byte* p) const {
  ::operator delete(p, std::align_val_t(kAlignment));
}

void LinearScratch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  data_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kAlignment))));
  bytes_ = bytes;
}

void LinearScratch::BeginPrivateTiles(int threads) {
  ++call_;
  if (claims_.size() < static_cast<size_t>(threads)) claims_.resize(static_cast<size_t>(threads));
}

bool LinearScratch::ClaimPrivateTile(int thread) {
  uint64_t& claimed = claims_[static_cast<size_t>(thread)].call;
  if (claimed == call_) return false;
  claimed = call_;
  return true;
}

void CpuLinear(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch) {
  for (int i = 0; i < args.num_outputs; ++i) {
    SPOTD_CHECK(args.outputs[i].weight->cols() == args.in_dim);
  }
  const int64_t chunk_rows = ChunkRows(args.in_dim);
  for (int64_t first_row = 0; first_row < args.rows; first_row += chunk_rows) {
    const RowChunk chunk = {first_row, std::min(chunk_rows, args.rows - first_row)};
    const bool few = chunk.rows <= kTileRows && kTileRows * pool.num_threads() <= chunk_rows;
    few ? LinearFewRows(args, chunk, pool, scratch) : LinearManyRows(args, chunk, pool, scratch);
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
