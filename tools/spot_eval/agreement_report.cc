#include "tools/spot_eval/agreement_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include "tools/spot_eval/report.h"
#include "tools/spot_eval/statistics.h"

namespace spotd::eval {
namespace {

using nlohmann::json;

template <typename Get>
std::vector<double> Values(std::span<const Agreement* const> documents, const Get& get) {
  std::vector<double> values;
  for (const Agreement* a : documents) values.push_back(Rounded(get(*a)));
  return values;
}

double Mean(const std::vector<double>& values) {
  return Rounded(MeanInterval(values).mean);
}

// By how much believed and true mass differ, with the choices sorted into bins of believed mass.
json Reliability(std::span<const Agreement* const> documents) {
  constexpr size_t kBins = 20;
  struct Bin {
    double believed = 0, mass = 0, count = 0;
  };
  std::array<Bin, kBins> bins;
  double total = 0;
  for (const Agreement* a : documents) {
    for (const Belief& belief : a->reading.beliefs) {
      const double at = std::clamp(static_cast<double>(belief.believed), 0.0, 1.0) * kBins;
      Bin& bin = bins[std::min(kBins - 1, static_cast<size_t>(at))];
      bin.believed += static_cast<double>(belief.believed);
      bin.mass += static_cast<double>(belief.mass);
      bin.count += 1;
      total += 1;
    }
  }
  json rows = json::array();
  double error = 0;
  for (const Bin& bin : bins) {
    if (bin.count == 0) continue;
    error += std::abs(bin.believed - bin.mass) / total;
    rows.push_back({{"believed", Rounded(bin.believed / bin.count)},
                    {"mass", Rounded(bin.mass / bin.count)},
                    {"share", Rounded(bin.count / total)}});
  }
  return {{"bins", rows}, {"calibration_error", Rounded(error)}};
}

// Means over documents and steps, a figure for each layer.
template <typename Get>
std::vector<double> ByLayer(std::span<const Agreement* const> documents, const Get& get) {
  std::vector<double> layers(documents[0]->reading.layers.size());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const Agreement* a : documents) {
      const auto steps = static_cast<double>(a->reading.steps);
      layers[layer] += get(a->reading.layers[layer]) / steps;
    }
    layers[layer] = Rounded(layers[layer] / static_cast<double>(documents.size()));
  }
  return layers;
}

// [layers][KV heads]
std::vector<std::vector<double>> HeadMass(std::span<const Agreement* const> documents) {
  std::vector<std::vector<double>> heads(documents[0]->reading.layers[0].heads.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    heads[h] = ByLayer(documents, [h](const LayerReading& l) { return l.heads[h]; });
  }
  std::vector<std::vector<double>> layers(heads[0].size());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const auto& head : heads) layers[layer].push_back(head[layer]);
  }
  return layers;
}

json MassJson(std::span<const Agreement* const> documents) {
  const auto mass = ByLayer(documents, [](const LayerReading& l) { return l.mass; });
  const auto oracle = ByLayer(documents, [](const LayerReading& l) { return l.oracle; });
  const auto layer_oracle =
      ByLayer(documents, [](const LayerReading& l) { return l.layer_oracle; });
  const auto density = ByLayer(documents, [](const LayerReading& l) { return l.density; });
  json out = {{"mass", Mean(mass)},
              {"oracle_mass", Mean(oracle)},
              {"oracle_share", Rounded(Mean(mass) / Mean(oracle))},
              {"layer_oracle_mass", Mean(layer_oracle)},
              {"layer_oracle_share", Rounded(Mean(mass) / Mean(layer_oracle))},
              {"layers",
               {{"mass", mass},
                {"head_mass", HeadMass(documents)},
                {"oracle_mass", oracle},
                {"layer_oracle_mass", layer_oracle},
                {"believed", ByLayer(documents, [](const LayerReading& l) { return l.believed; })},
                {"density", density}}},
              {"reliability", Reliability(documents)}};
  return out;
}

}  // namespace

json AgreementJson(const RowName& name, std::span<const Agreement* const> documents) {
  const auto kl = Values(documents, [](const Agreement& a) { return a.kl; });
  const auto top1 = Values(documents, [](const Agreement& a) { return a.top1; });
  const auto nll = Values(documents, [](const Agreement& a) { return a.nll - a.dense_nll; });
  const Interval kl_interval = MeanInterval(kl);
  const Interval nll_interval = MeanInterval(nll);
  const auto reading = [&](double (Reading::*get)() const) {
    return Mean(Values(documents, [get](const Agreement& a) { return (a.reading.*get)(); }));
  };
  json row = {
      {"policy", name.policy},
      {"keys", name.keys},
      {"context", name.context},
      {"documents", documents.size()},
      {"density", reading(&Reading::density)},
      {"bytes", reading(&Reading::bytes_share)},
      {"believed_mass", reading(&Reading::believed_mass)},
      {"kl", Rounded(kl_interval.mean)},
      {"kl_ci95", Rounded(kl_interval.half_width)},
      {"top1", Mean(top1)},
      {"dense_nll", Mean(Values(documents, [](const Agreement& a) { return a.dense_nll; }))},
      {"nll_delta", Rounded(nll_interval.mean)},
      {"nll_delta_ci95", Rounded(nll_interval.half_width)},
      {"per_document", {{"kl", kl}, {"top1", top1}, {"nll_delta", nll}}}};
  if (!documents[0]->reading.layers.empty()) row.update(MassJson(documents));
  return row;
}

const char kAgreementHeader[] =
    "| context | policy | keys | density | bytes | KL to dense | top-1 | perplexity | true mass | "
    "of "
    "oracle's |\n|---|---|---|---|---|---|---|---|---|---|";

std::string AgreementLine(const json& row) {
  char text[512];
  std::snprintf(text, sizeof(text),
                "| %d | %s | %s | %.3f | %.3f | %.4f ± %.4f | %.3f | %+.2f%% ± %.2f%% |",
                row["context"].get<int>(), row["policy"].get<std::string>().c_str(),
                row["keys"].get<std::string>().c_str(), row["density"].get<double>(),
                row["bytes"].get<double>(), row["kl"].get<double>(), row["kl_ci95"].get<double>(),
                row["top1"].get<double>(), 100 * std::expm1(row["nll_delta"].get<double>()),
                100 * row["nll_delta_ci95"].get<double>());
  std::string line = text;
  if (!row.contains("mass")) return line + " | |";
  std::snprintf(text, sizeof(text), " %.4f | %.4f |", row["mass"].get<double>(),
                row["oracle_share"].get<double>());
  return line + text;
}

}  // namespace spotd::eval
