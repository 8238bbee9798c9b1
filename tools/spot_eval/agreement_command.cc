// spot-eval ppl and mass.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "kernels/core/status.h"
#include "tools/spot_eval/agreement.h"
#include "tools/spot_eval/agreement_report.h"
#include "tools/spot_eval/commands.h"
#include "tools/spot_eval/corpus.h"
#include "tools/spot_eval/report.h"

namespace spotd::eval {
namespace {

using Results = std::vector<std::vector<Agreement>>;  // [documents][policies]

class AgreementRun {
 public:
  AgreementRun(std::string command, const EvalOptions& options)
      : command_(std::move(command)), options_(options) {}

  absl::Status Run() {
    std::printf("%s\n", kAgreementHeader);
    for (const std::string& keys : options_.key_formats) SPOTD_RETURN_IF_ERROR(RunKeys(keys));
    return WriteReport(options_, report_);
  }

 private:
  absl::Status RunKeys(const std::string& keys) {
    const bool first = keys == options_.key_formats.front();
    tools::ModelOptions sized = SizedModel(options_, options_.tail);
    SPOTD_ASSIGN_OR_RETURN(sized.selector_format, ParseKeyFormat(keys));
    SPOTD_ASSIGN_OR_RETURN(const auto model, EvalModel::Load(sized));
    model->set_probing(command_ == "mass");
    if (first) SPOTD_RETURN_IF_ERROR(Begin(*model));
    for (const int32_t context : options_.contexts) {
      SPOTD_ASSIGN_OR_RETURN(const auto policies, PoliciesFor(options_, first, context));
      if (policies.empty()) return absl::OkStatus();
      SPOTD_ASSIGN_OR_RETURN(const Results results, Measure(*model, context, policies));
      Report(keys, context, policies, results);
    }
    return absl::OkStatus();
  }

  absl::Status Begin(EvalModel& model) {
    SPOTD_ASSIGN_OR_RETURN(
        documents_, LoadDocuments(model.loaded().tokenizer(), options_.text,
                                  options_.contexts.back(), options_.documents, options_.windows));
    report_ = NewReport(command_, options_, model);
    report_["tail"] = options_.tail;
    for (const Document& document : documents_) report_["documents"].push_back(document.name);
    return absl::OkStatus();
  }

  absl::StatusOr<Results> Measure(EvalModel& model, int32_t context,
                                  const std::vector<PolicySpec>& policies) {
    const TailOptions tail = {options_.contexts.back(), context, options_.tail};
    const auto at_once = static_cast<size_t>(SequencesAtOnce(options_));
    Results results;
    for (size_t begin = 0; begin < documents_.size(); begin += at_once) {
      const auto part =
          std::span(documents_).subspan(begin, std::min(at_once, documents_.size() - begin));
      SPOTD_ASSIGN_OR_RETURN(auto measured, MeasureAgreement(model, part, tail, policies));
      std::move(measured.begin(), measured.end(), std::back_inserter(results));
      std::fprintf(stderr, "context %d: %zu of %zu documents\n", context, results.size(),
                   documents_.size());
    }
    return results;
  }

  void Report(const std::string& keys, int32_t context, const std::vector<PolicySpec>& policies,
              const Results& results) {
    for (size_t p = 0; p < policies.size(); ++p) {
      std::vector<const Agreement*> documents;
      for (const auto& document : results) documents.push_back(&document[p]);
      // Policies without a selector read no selector keys.
      const RowName name = {policies[p].label, policies[p].needs_selector() ? keys : "", context};
      report_["rows"].push_back(AgreementJson(name, documents));
      std::printf("%s\n", AgreementLine(report_["rows"].back()).c_str());
    }
    std::fflush(stdout);
  }

  std::string command_;
  const EvalOptions& options_;
  std::vector<Document> documents_;
  nlohmann::json report_;
};

}  // namespace

absl::Status RunAgreement(const std::string& command, const EvalOptions& options) {
  return AgreementRun(command, options).Run();
}

}  // namespace spotd::eval
