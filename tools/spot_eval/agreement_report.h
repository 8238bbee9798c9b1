// A policy's figures over all documents, as JSON and as a line of a table.
#pragma once

#include <span>
#include <string>

#include "nlohmann/json.hpp"
#include "tools/spot_eval/agreement.h"

namespace spotd::eval {

struct RowName {
  std::string policy;
  std::string keys;
  int32_t context;
};

// `documents` holds one figure of the policy for each document.
nlohmann::json AgreementJson(const RowName& name, std::span<const Agreement* const> documents);

extern const char kAgreementHeader[];
std::string AgreementLine(const nlohmann::json& row);

}  // namespace spotd::eval
