#include "tools/spot_bench/fill.h"

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/core/selector_key.h"
#include "kernels/core/status.h"
#include "tools/spot_bench/operation_timer.h"

namespace spotd::bench {
namespace {

struct Range {
  size_t begin;
  size_t end;
};

// Blocks of `to` become copies of those of `from`, repeated.
void Copy(kernels::Backend& backend, void* base, size_t bytes, Range from, Range to) {
  auto* blocks = static_cast<char*>(base);
  for (; to.begin < to.end; to.begin += from.end - from.begin) {
    backend.Copy(blocks + to.begin * bytes, blocks + from.begin * bytes,
                 std::min(from.end - from.begin, to.end - to.begin) * bytes);
  }
}

}  // namespace

absl::Status FillByCopies(tools::LoadedModel& model) {
  std::vector<int32_t> tokens(kStretchTokens);
  std::mt19937 random(1);
  const auto vocab = static_cast<uint32_t>(model.source().config().vocab);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  kvstore::BlockTable table = model.store().NewTable();
  SPOTD_RETURN_IF_ERROR(model.Prefill(tokens, &table));
  const auto [low, high] = std::minmax_element(table.blocks().begin(), table.blocks().end());
  const Range from = {static_cast<size_t>(*low), static_cast<size_t>(*high) + 1};
  if (from.end - from.begin != table.blocks().size()) {
    return absl::InternalError("a new store gave out scattered blocks");
  }
  const kvstore::KvLayout& layout = model.store().layout();
  for (int32_t layer = 0; layer < layout.layers; ++layer) {
    const kernels::KvLayer view = model.store().LayerView(layer);
    for (auto [base, bytes] : {std::pair(view.kv, layout.KvBlockBytes()),
                               std::pair(view.selector_keys, layout.SelectorBlockBytes()),
                               std::pair(view.summary, layout.SummaryBlockBytes())}) {
      if (base == nullptr) continue;
      Copy(model.backend(), base, bytes, from, {0, from.begin});
      Copy(model.backend(), base, bytes, from, {from.end, static_cast<size_t>(view.num_blocks)});
    }
  }
  return model.backend().Synchronize();
}

void WaitMeter::Download(void* dst, const void* src, size_t bytes) {
  const auto start = Clock::now();
  ForwardingBackend::Download(dst, src, bytes);
  waited_ += SecondsSince(start);
}

absl::Status WaitMeter::Synchronize() {
  const auto start = Clock::now();
  absl::Status status = ForwardingBackend::Synchronize();
  waited_ += SecondsSince(start);
  return status;
}

}  // namespace spotd::bench
