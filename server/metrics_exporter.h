// Turns what the engine and the server count into Prometheus families (runtime counts, server
// exports).
//
// Every name starts with spotd_ (or process_); every series is labelled by model_name; policies,
// outcomes and sources are closed sets of values. Sessions and clients are never labels.
#pragma once

#include <memory>
#include <string>

#include "runtime/engine/engine.h"
#include "server/rpc_metrics.h"

namespace spotd::server {

enum class EngineState { kReady, kDraining, kStalled };

class MetricsExporter {
 public:
  // Both must outlive the exporter.
  MetricsExporter(engine::Engine* engine, const RpcMetrics* rpc_metrics);
  ~MetricsExporter();

  // The page of /metrics, in Prometheus' text format. Thread-safe.
  std::string Text(EngineState state) const;

 private:
  engine::Engine* engine_;
  const RpcMetrics* rpc_metrics_;
};

}  // namespace spotd::server
