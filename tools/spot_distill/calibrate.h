// spot-distill --calibrate: measures a trained selector on long text and writes into its file the
// temperature and the budget of each layer.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/distill/checkpoint.h"

namespace spotd::distill {

struct CalibrateOptions {
  std::string model;
  std::string selector;  // the file to calibrate
  std::string out;       // the file to write; may be the same
  std::vector<std::string> corpus;
  std::string backend = "auto";
  int threads = 0;
  int32_t context = 0;     // tokens; 0 = the model's context length
  double density = 0.15;   // mean density that the default settings shall have at `context`
  int32_t documents = 12;  // searched with; as many others judge
  int32_t questions = 12;  // texts with a question at the end searched with; as many others judge
  double answer_weight = 0.1;  // of the KL on their answers, beside that on plain text
  int32_t tail = 32;           // tokens decoded of each
  int32_t rounds = 3;
  std::vector<std::string>
      rules;  // families to search: p_residual, p_total, fraction, floor, dense
  SelectorStorage storage = SelectorStorage::kBf16;
  std::vector<std::string> densities;  // at which every family is searched and judged besides
};

absl::Status Calibrate(const CalibrateOptions& options);

}  // namespace spotd::distill
