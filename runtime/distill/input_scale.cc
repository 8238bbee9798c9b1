#include "runtime/distill/input_scale.h"

#include <cmath>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace spotd::distill {
namespace {

class InputObserver final : public model::LayerObserver {
 public:
  InputObserver(kernels::Backend* backend, int32_t hidden, int32_t layers)
      : backend_(backend),
        hidden_(static_cast<size_t>(hidden)),
        rms_(static_cast<size_t>(layers)) {}

  void OnLayer(const model::LayerView& view) override {
    std::vector<std::byte> x(static_cast<size_t>(view.rows) * hidden_ *
                             backend_->activation_bytes());
    backend_->Download(x.data(), view.x, x.size());
    const bool wide = backend_->activation_bytes() == sizeof(float);
    rms_[static_cast<size_t>(view.layer)] =
        wide ? Rms(reinterpret_cast<const float*>(x.data()), view.rows)
             : Rms(reinterpret_cast<const Bf16*>(x.data()), view.rows);
  }

  std::vector<float> Take() { return std::move(rms_); }

 private:
  static float Float(float value) { return value; }
  static float Float(Bf16 value) { return ToFloat(value); }

  // Of all rows but the first.
  template <typename T>
  float Rms(const T* x, int32_t rows) const {
    const size_t count = static_cast<size_t>(rows - 1) * hidden_;
    double squares = 0;
    for (size_t i = 0; i < count; ++i) {
      const double value = Float(x[hidden_ + i]);
      squares += value * value;
    }
    return static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
  }

  kernels::Backend* backend_;
  size_t hidden_;
  std::vector<float> rms_;
};

}  // namespace

absl::StatusOr<std::vector<float>> MeasureInputs(kernels::Backend* backend,
                                                 model::Transformer* transformer,
                                                 kvstore::KvStore* store,
                                                 std::span<const int32_t> tokens) {
  const auto rows = static_cast<int32_t>(tokens.size());
  if (rows < 2) return InvalidArgument("inputs are measured on two tokens or more, got ", rows);
  kvstore::BlockTable table = store->NewTable();
  SPOTD_RETURN_IF_ERROR(store->Reserve(&table, rows));
  const model::ModelConfig& config = transformer->config();
  InputObserver observer(backend, config.hidden, config.layers);
  std::vector<model::PrefillChunk> chunks(1);
  chunks[0].tokens = tokens;
  chunks[0].table = &table;
  chunks[0].observer = &observer;
  SPOTD_RETURN_IF_ERROR(transformer->PrefillMany(chunks));
  SPOTD_RETURN_IF_ERROR(backend->Synchronize());
  return observer.Take();
}

}  // namespace spotd::distill
