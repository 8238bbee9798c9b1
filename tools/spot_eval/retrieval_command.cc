// spot-eval needle, track and qa.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "kernels/core/read_file.h"
#include "kernels/core/status.h"
#include "runtime/text/utf8.h"
#include "tools/common/chat_prompt.h"
#include "tools/spot_eval/commands.h"
#include "tools/spot_eval/corpus.h"
#include "tools/spot_eval/report.h"
#include "tools/spot_eval/retrieval.h"
#include "tools/spot_eval/statistics.h"

namespace spotd::eval {
namespace {

using tools::ChatPrompt;
using tools::CountTokens;

struct Item {
  TaskKind kind;
  int32_t context;
  double depth;
  Question question;
  Prompt prompt;
};

// Scores of one policy and of dense decoding on the same prompts.
struct Scores {
  std::vector<double> dense;
  std::vector<double> policy;
  double same_reply = 0;
  double density = 0;
  std::vector<double> fact_recall;  // of each layer, summed over prompts
};

class RetrievalRun {
 public:
  RetrievalRun(std::string command, const EvalOptions& options)
      : command_(std::move(command)), options_(options) {}

  absl::Status Run() {
    std::printf(
        "| task | context | policy | keys | density | dense | policy's score | difference | same "
        "reply |\n|---|---|---|---|---|---|---|---|---|\n");
    for (const std::string& keys : options_.key_formats) SPOTD_RETURN_IF_ERROR(RunKeys(keys));
    return WriteReport(options_, report_);
  }

 private:
  // (task, depth or all depths)
  using Point = std::pair<TaskKind, std::optional<double>>;

  absl::Status RunKeys(const std::string& keys) {
    const bool first = keys == options_.key_formats.front();
    tools::ModelOptions sized = SizedModel(options_, 128 + options_.max_new_tokens);
    SPOTD_ASSIGN_OR_RETURN(sized.selector_format, ParseKeyFormat(keys));
    SPOTD_ASSIGN_OR_RETURN(const auto model, EvalModel::Load(sized));
    if (first) {
      report_ = NewReport(command_, options_, *model);
      report_["dense_question"] = options_.dense_question;
      SPOTD_RETURN_IF_ERROR(MakeItems(model->loaded()));
    }
    for (const int32_t context : options_.contexts) {
      SPOTD_ASSIGN_OR_RETURN(const auto policies, PoliciesFor(options_, first, context));
      if (!policies.empty()) SPOTD_RETURN_IF_ERROR(RunContext(*model, keys, context, policies));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Haystack> MakeHaystack(const CountTokens& count) const {
    if (options_.text.empty()) {
      return Haystack::MadeUp(options_.seed, 2 * options_.contexts.back(), count);
    }
    SPOTD_ASSIGN_OR_RETURN(const auto files, TextFiles(options_.text));
    std::vector<std::string> texts;
    for (const std::string& path : files) {
      SPOTD_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
      if (const auto at = text::FirstInvalidUtf8(text)) {
        return InvalidArgument("--text: ", path, ": not valid UTF-8 at byte ", *at);
      }
      texts.push_back(std::move(text));
    }
    return Haystack::FromTexts(texts, count);
  }

  absl::Status MakeItems(tools::LoadedModel& model) {
    absl::Status failed;
    const CountTokens count = [&](const std::string& text) {
      const auto tokens = model.tokenizer().Encode(text, {});
      if (!tokens.ok()) failed = tokens.status();
      return tokens.ok() ? static_cast<int32_t>(tokens->size()) : 1;
    };
    SPOTD_ASSIGN_OR_RETURN(const Haystack haystack, MakeHaystack(count));
    SPOTD_RETURN_IF_ERROR(failed);
    SPOTD_ASSIGN_OR_RETURN(const ChatPrompt chat,
                           ChatPrompt::Create(model.source(), &model.tokenizer()));
    Random random(options_.seed);
    for (const TaskKind kind : options_.tasks) {
      for (const int32_t context : options_.contexts) {
        for (const double depth : options_.depths) {
          for (int32_t i = 0; i < options_.prompts; ++i) {
            Item item = {kind, context, depth, {}, {}};
            SPOTD_RETURN_IF_ERROR(FillItem(haystack, chat, random(), &item));
            items_.push_back(std::move(item));
          }
        }
      }
    }
    return absl::OkStatus();
  }

  // A prompt of nearly item->context tokens, its reply included.
  absl::Status FillItem(const Haystack& haystack, const ChatPrompt& chat, uint64_t seed,
                        Item* item) const {
    const auto make = [&](int32_t filler) -> absl::Status {
      Random random(seed);
      item->question = MakeQuestion({item->kind, filler, item->depth}, haystack, random);
      SPOTD_ASSIGN_OR_RETURN(item->prompt.tokens, chat.Encode(item->question));
      return absl::OkStatus();
    };
    const auto length = [&] {
      return static_cast<int32_t>(item->prompt.tokens.document.size() +
                                  item->prompt.tokens.question.size());
    };
    item->prompt.max_new_tokens = options_.max_new_tokens;
    item->prompt.dense_question = options_.dense_question;
    SPOTD_RETURN_IF_ERROR(make(0));  // the same words without filler: what they cost
    const int32_t room = item->context - options_.max_new_tokens - length();
    if (room <= 0) return InvalidArgument("--context: ", item->context, " tokens hold no prompt");
    // Pieces joined may take a few tokens more than each by itself.
    for (int32_t filler = room;; filler -= room / 50 + 1) {
      SPOTD_RETURN_IF_ERROR(make(filler));
      if (length() + options_.max_new_tokens <= item->context) break;
    }
    const int32_t filled = length() + options_.max_new_tokens;
    const int32_t text = filled - (item->context - room);
    if (text >= room / 4 || room < item->context / 4) return absl::OkStatus();
    return InvalidArgument("--text: its lines are too long to fill ", item->context,
                           " tokens: a prompt came to ", filled);
  }

  absl::Status RunContext(EvalModel& model, const std::string& keys, int32_t context,
                          const std::vector<PolicySpec>& policies) {
    std::vector<const Item*> items;
    for (const Item& item : items_) {
      if (item.context == context) items.push_back(&item);
    }
    std::vector<std::map<Point, Scores>> scores(policies.size());
    const auto at_once = static_cast<size_t>(SequencesAtOnce(options_));
    for (size_t begin = 0; begin < items.size(); begin += at_once) {
      const size_t end = std::min(items.size(), begin + at_once);
      std::vector<Prompt> prompts;
      for (size_t i = begin; i < end; ++i) prompts.push_back(items[i]->prompt);
      SPOTD_ASSIGN_OR_RETURN(const auto replies, AnswerPrompts(model, prompts, policies));
      for (size_t i = begin; i < end; ++i) {
        for (size_t p = 0; p < policies.size(); ++p) {
          Judge(*items[i], replies[i - begin], p, &scores[p]);
        }
        ShowReplies(*items[i], policies, replies[i - begin]);
      }
      std::fprintf(stderr, "context %d: %zu of %zu prompts\n", context, end, items.size());
    }
    for (size_t p = 0; p < policies.size(); ++p) {
      Report(policies[p].needs_selector() ? keys : "", context, policies[p].label, scores[p]);
    }
    return absl::OkStatus();
  }

  void Judge(const Item& item, const std::vector<Reply>& replies, size_t policy,
             std::map<Point, Scores>* scores) const {
    const Reply& dense = replies[0];
    const Reply& reply = replies[1 + policy];
    std::vector<Point> points = {{item.kind, std::nullopt}};
    if (options_.depths.size() > 1) points.emplace_back(item.kind, item.depth);
    for (const Point& point : points) {
      Scores& sum = (*scores)[point];
      sum.dense.push_back(Score(item.question, dense.text));
      sum.policy.push_back(Score(item.question, reply.text));
      sum.same_reply += dense.text == reply.text ? 1 : 0;
      sum.density += reply.density;
      sum.fact_recall.resize(reply.fact_recall.size());
      for (size_t layer = 0; layer < reply.fact_recall.size(); ++layer) {
        sum.fact_recall[layer] += reply.fact_recall[layer];
      }
    }
  }

  void ShowReplies(const Item& item, const std::vector<PolicySpec>& policies,
                   const std::vector<Reply>& replies) {
    // One of each task and context is enough to see what the model says.
    if (!shown_.emplace(item.kind, item.context).second) return;
    nlohmann::json example = {{"task", TaskName(item.kind)},
                              {"context", item.context},
                              {"answers", item.question.answers},
                              {"full", replies[0].text}};
    for (size_t p = 0; p < policies.size(); ++p) example[policies[p].label] = replies[1 + p].text;
    report_["examples"].push_back(example);
  }

  void Report(const std::string& keys, int32_t context, const std::string& policy,
              const std::map<Point, Scores>& scores) {
    for (const auto& [point, sum] : scores) {
      std::vector<double> differences;
      for (size_t i = 0; i < sum.dense.size(); ++i) {
        differences.push_back(sum.policy[i] - sum.dense[i]);
      }
      const Interval difference = MeanInterval(differences);
      const double dense = MeanInterval(sum.dense).mean;
      const double score = MeanInterval(sum.policy).mean;
      const auto count = static_cast<double>(sum.dense.size());
      nlohmann::json row = {{"task", TaskName(point.first)},
                            {"policy", policy},
                            {"keys", keys},
                            {"context", context},
                            {"prompts", sum.dense.size()},
                            {"density", Rounded(sum.density / count)},
                            {"dense_score", Rounded(dense)},
                            {"score", Rounded(score)},
                            {"difference", Rounded(difference.mean)},
                            {"difference_ci95", Rounded(difference.half_width)},
                            {"same_reply", Rounded(sum.same_reply / count)}};
      if (point.second.has_value()) row["depth"] = *point.second;
      for (const double recall : sum.fact_recall) {
        if (point.second.has_value()) break;  // over all depths is enough
        row["fact_recall_layers"].push_back(Rounded(recall / count));
      }
      report_["rows"].push_back(row);
      if (point.second.has_value()) continue;
      std::printf("| %s | %d | %s | %s | %.3f | %.3f | %.3f | %+.3f ± %.3f | %.2f |\n",
                  TaskName(point.first), context, policy.c_str(), keys.c_str(), sum.density / count,
                  dense, score, difference.mean, difference.half_width, sum.same_reply / count);
    }
    std::fflush(stdout);
  }

  std::string command_;
  const EvalOptions& options_;
  std::vector<Item> items_;
  std::set<std::pair<TaskKind, int32_t>> shown_;
  nlohmann::json report_;
};

}  // namespace

absl::Status RunRetrieval(const std::string& command, const EvalOptions& options) {
  return RetrievalRun(command, options).Run();
}

}  // namespace spotd::eval
