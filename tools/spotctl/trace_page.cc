#include "tools/spotctl/trace_page.h"

#include "nlohmann/json.hpp"
#include "tools/spotctl/trace_page_parts.h"

namespace spotd::spotctl {
namespace {

nlohmann::json StepJson(const TraceData::Step& step) {
  nlohmann::json layers = nlohmann::json::array();
  for (const TraceData::Runs& runs : step.layers) {
    nlohmann::json flat = nlohmann::json::array();
    for (const auto& [first, count] : runs) {
      flat.push_back(first);
      flat.push_back(count);
    }
    layers.push_back(std::move(flat));
  }
  return {{"position", step.position},
          {"text", step.text},
          {"dense", step.dense},
          {"layers", std::move(layers)}};
}

// JSON that may stand inside a script element whatever the texts hold.
std::string ScriptSafe(const nlohmann::json& json) {
  std::string out;
  for (const char c :
       json.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string TracePage(const TraceData& trace, const std::string& title) {
  nlohmann::json data = {{"title", title},
                         {"layers", trace.layer_count},
                         {"blockTokens", trace.block_tokens},
                         {"blocks", trace.block_count()},
                         {"dropped", trace.dropped_steps},
                         {"texts", trace.block_texts}};
  nlohmann::json& steps = data["steps"] = nlohmann::json::array();
  for (const TraceData::Step& step : trace.steps) steps.push_back(StepJson(step));
  return std::string(kTracePageHead) + "<script>\nconst trace = " + ScriptSafe(data) + ";\n" +
         kTracePageScript + "</script>\n</body>\n</html>\n";
}

}  // namespace spotd::spotctl
