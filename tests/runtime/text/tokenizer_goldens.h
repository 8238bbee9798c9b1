// Compares a tokenizer with what the reference library made of the corpus.
#pragma once

#include <string>

#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer.h"

namespace spotd::text {

// tokenizer_goldens.json under `name`.
nlohmann::json TokenizerGoldens(const std::string& name);

// Each adds test failures that name the first text or block that differs.
void ExpectSameSamples(const Tokenizer& tokenizer, const nlohmann::json& goldens);
void ExpectSameMixedText(const Tokenizer& tokenizer, const nlohmann::json& goldens);
void ExpectSameRandomStrings(const Tokenizer& tokenizer, const nlohmann::json& goldens);
void ExpectSameDecodedText(const Tokenizer& tokenizer, const nlohmann::json& goldens);

}  // namespace spotd::text
