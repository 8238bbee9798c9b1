// spot-distill: trains a selector for a checkpoint from plain text files. docs/distillation.md is
// its guide.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "kernels/distill.h"
#include "kvstore/kv_store.h"
#include "runtime/distill/checkpoint.h"
#include "runtime/distill/trainer.h"
#include "runtime/model/model_source.h"
#include "runtime/model/policy.h"
#include "runtime/text/tokenizer.h"
#include "tools/common/program_help.h"
#include "tools/spot_distill/calibrate.h"
#include "tools/spot_distill/progress.h"

ABSL_FLAG(std::string, model, "", "checkpoint: a .gguf file or a Hugging Face directory");
ABSL_FLAG(std::vector<std::string>, corpus, {}, "text files or directories, separated by commas");
ABSL_FLAG(std::string, out, "selector.safetensors", "the selector to write");
ABSL_FLAG(std::string, checkpoint, "", "checkpoint file; default: --out with .checkpoint appended");
ABSL_FLAG(int, checkpoint_every, 50, "steps between checkpoints");
ABSL_FLAG(bool, resume, false, "continue from the checkpoint");
ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or ref");
ABSL_FLAG(int, threads, 0, "host threads; 0 = one per core");
ABSL_FLAG(int, length, 1024, "tokens of a training sequence");
ABSL_FLAG(int64_t, tokens, 20'000'000, "training tokens in all");
ABSL_FLAG(int, sequences, 8, "sequences in an optimiser step");
ABSL_FLAG(int, queries, 128, "rows of each sequence that enter the loss");
ABSL_FLAG(int, heads, 4, "selector heads");
ABSL_FLAG(std::string, groups, "1",
          "choices of a layer: 1, shared by all heads, or kv-heads (or their number), one for each "
          "KV head");
ABSL_FLAG(int, dim, 0, "selector head dimension; 0 = the model's head_dim");
ABSL_FLAG(double, lr, 5e-3, "peak learning rate");
ABSL_FLAG(int, warmup, 50, "warm-up steps");
ABSL_FLAG(double, input_rms, 0.33,
          "the root mean square of a layer's inputs that --lr fits: layers whose inputs are larger "
          "start and learn by that much less; 0: all alike");
ABSL_FLAG(double, clip, 1.0, "gradient norm limit");
ABSL_FLAG(double, full_weight, 1.0, "weight of the KL over all tokens");
ABSL_FLAG(double, residual_weight, 1.0,
          "weight of the KL over the tokens outside sinks and recency");
ABSL_FLAG(double, teacher_power, 1.0,
          "heads count by their mass outside sinks and recency to this power; 0: the plain mean");
ABSL_FLAG(double, group_power, 2.0,
          "KV heads that choose apart count by their mass outside sinks and recency to this power; "
          "0: alike");
ABSL_FLAG(double, sparse_stage, 0.0,
          "share of the steps, at the end, that train on the chosen blocks only");
ABSL_FLAG(double, sparse_fraction, 0.10, "density of the sparse stage");
ABSL_FLAG(double, round_keys, 0.0,
          "share of the steps, at the end, that see the selector's keys rounded to int4");
ABSL_FLAG(int, sink_tokens, spotd::model::Policy{}.sink_tokens,
          "reserved tokens at the start of the context");
ABSL_FLAG(int, recency_tokens, spotd::model::Policy{}.recency_tokens, "reserved tokens at its end");
ABSL_FLAG(double, skip, 0.75, "share of the sequences trained with skipped positions");
ABSL_FLAG(int32_t, cuts, 64, "skipped positions: the most places of a sequence that get a gap");
ABSL_FLAG(double, gap_power, 0.5,
          "skipped positions: gaps add up to a uniform share of the room to this power; below 1 "
          "favours long ones");
ABSL_FLAG(int, serve_length, 0,
          "longest position that skipping shows; 0 = the model's context length");
ABSL_FLAG(int64_t, seed, 1, "seed of weights, text order and positions");
ABSL_FLAG(
    std::string, calibrate, "",
    "instead of training: the selector file to fit temperatures and layer budgets for, into --out");
ABSL_FLAG(int, context, 0, "calibration: tokens of context; 0 = the model's context length");
ABSL_FLAG(double, density, 0.15, "calibration: mean density that the default settings shall have");
ABSL_FLAG(int, documents, 12, "calibration: long documents searched with; as many others judge");
ABSL_FLAG(int, questions, 12,
          "calibration: long texts that end with a question and its answer, made from the corpus, "
          "searched with besides; as many others judge");
ABSL_FLAG(double, answer_weight, 0.1,
          "calibration: how much the KL on answers counts beside the KL on plain text");
ABSL_FLAG(int, tail, 32, "calibration: tokens decoded at the end of each document");
ABSL_FLAG(int, rounds, 3, "calibration: rounds of the budget search");
ABSL_FLAG(std::vector<std::string>, rules, std::vector<std::string>({"floor", "p_residual"}),
          "calibration: budget rules to search: p_residual, p_total, fraction, floor, dense");
ABSL_FLAG(std::vector<std::string>, densities, {},
          "calibration: further densities to search and report, for comparison");
ABSL_FLAG(std::string, storage, "bf16",
          "how the selector written keeps its matrices: bf16, or int8 in half the bytes");
ABSL_FLAG(int, held_out_sequences, 16, "held-out sequences evaluated at the end");

namespace spotd::distill {
namespace {

constexpr char kUsage[] =
    "distils a selector from a frozen model's attention.\n"
    "  spot-distill --model M.gguf --corpus texts/ --length 1024 --tokens 20000000 --out "
    "selector.safetensors";

// Tokens that a device runs in one pass.
constexpr int32_t kDeviceRows = 16384;

volatile std::sig_atomic_t g_interrupted = 0;  // by this signal

// While one exists, Ctrl-C and SIGTERM only ask for an end: training stops after the step that runs
// and writes its checkpoint. Elsewhere they end the program at once, which has nothing to lose.
class CaughtInterrupts {
 public:
  CaughtInterrupts() = default;
  ~CaughtInterrupts() {
    std::signal(SIGINT, interrupt_);
    std::signal(SIGTERM, terminate_);
  }
  CaughtInterrupts(const CaughtInterrupts&) = delete;
  CaughtInterrupts& operator=(const CaughtInterrupts&) = delete;

 private:
  static void Ask(int signal) { g_interrupted = signal; }

  void (*interrupt_)(int) = std::signal(SIGINT, Ask);
  void (*terminate_)(int) = std::signal(SIGTERM, Ask);
};

struct Setup {
  std::unique_ptr<model::ModelSource> source;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Transformer> transformer;
  std::unique_ptr<kvstore::KvStore> store;
  std::unique_ptr<Corpus> corpus;
};

absl::StatusOr<int32_t> GroupsFromFlag(const model::ModelConfig& model) {
  const std::string text = absl::GetFlag(FLAGS_groups);
  if (text == "kv-heads") return model.kv_heads;
  int32_t groups = 0;
  if (absl::SimpleAtoi(text, &groups)) return groups;
  return InvalidArgument("--groups must be a number or kv-heads, got '", text, "'");
}

absl::StatusOr<TrainerOptions> OptionsFromFlags(const model::ModelConfig& model) {
  TrainerOptions options;
  options.selector.heads = absl::GetFlag(FLAGS_heads);
  SPOTD_ASSIGN_OR_RETURN(options.selector.groups, GroupsFromFlag(model));
  options.selector.dim = absl::GetFlag(FLAGS_dim) != 0 ? absl::GetFlag(FLAGS_dim) : model.head_dim;
  options.selector.rope_theta = model.rope.theta;
  options.length = absl::GetFlag(FLAGS_length);
  options.selector.training_length = options.length;
  options.sequences_per_step = absl::GetFlag(FLAGS_sequences);
  options.tokens = absl::GetFlag(FLAGS_tokens);
  options.queries = absl::GetFlag(FLAGS_queries);
  options.learning_rate.peak = absl::GetFlag(FLAGS_lr);
  options.learning_rate.warmup_steps = absl::GetFlag(FLAGS_warmup);
  options.input_rms = static_cast<float>(absl::GetFlag(FLAGS_input_rms));
  options.clip_norm = absl::GetFlag(FLAGS_clip);
  options.full_weight = static_cast<float>(absl::GetFlag(FLAGS_full_weight));
  options.residual_weight = static_cast<float>(absl::GetFlag(FLAGS_residual_weight));
  options.teacher_power = static_cast<float>(absl::GetFlag(FLAGS_teacher_power));
  options.group_power = static_cast<float>(absl::GetFlag(FLAGS_group_power));
  options.sparse_stage = absl::GetFlag(FLAGS_sparse_stage);
  options.sparse_fraction = static_cast<float>(absl::GetFlag(FLAGS_sparse_fraction));
  options.rounding_stage = absl::GetFlag(FLAGS_round_keys);
  options.sink_tokens = absl::GetFlag(FLAGS_sink_tokens);
  options.recency_tokens = absl::GetFlag(FLAGS_recency_tokens);
  options.skip.probability = absl::GetFlag(FLAGS_skip);
  options.skip.most_cuts = absl::GetFlag(FLAGS_cuts);
  options.skip.gap_power = absl::GetFlag(FLAGS_gap_power);
  options.skip.max_position = absl::GetFlag(FLAGS_serve_length) != 0
                                  ? absl::GetFlag(FLAGS_serve_length)
                                  : model.context_length;
  options.seed = static_cast<uint64_t>(absl::GetFlag(FLAGS_seed));
  return options;
}

absl::StatusOr<Setup> Load() {
  if (absl::GetFlag(FLAGS_model).empty()) return InvalidArgument("--model is required");
  if (absl::GetFlag(FLAGS_corpus).empty()) return InvalidArgument("--corpus is required");
  const int32_t length = absl::GetFlag(FLAGS_length);
  if (length < 2 || length > 65536)
    return InvalidArgument("--length must be in 2..65536, got ", length);
  Setup s;
  SPOTD_ASSIGN_OR_RETURN(s.source, model::OpenModel(absl::GetFlag(FLAGS_model)));
  SPOTD_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Create(s.source->tokenizer_data()));
  CorpusOptions corpus;
  corpus.paths = absl::GetFlag(FLAGS_corpus);
  corpus.length = length;
  SPOTD_ASSIGN_OR_RETURN(
      Corpus loaded, Corpus::Load(corpus, *tokenizer, HostThreads(absl::GetFlag(FLAGS_threads))));
  s.corpus = std::make_unique<Corpus>(std::move(loaded));
  SPOTD_ASSIGN_OR_RETURN(s.backend, kernels::CreateBackend({absl::GetFlag(FLAGS_backend),
                                                            absl::GetFlag(FLAGS_threads)}));
  // A device fills its cores with many sequences at once; a host gains nothing from them.
  const int32_t at_once = s.backend->name() == "cuda" ? std::max(1, kDeviceRows / length) : 1;
  model::Limits limits;
  limits.max_batch = std::min(std::max(1, absl::GetFlag(FLAGS_sequences)), at_once);
  limits.max_prefill_chunk = limits.max_batch * length;
  limits.max_context = length;
  SPOTD_ASSIGN_OR_RETURN(s.transformer,
                         model::Transformer::Load(s.backend.get(), *s.source, nullptr, limits));
  const kvstore::KvLayout layout = s.transformer->KvLayoutFor(kernels::SelectorKeyFormat::kNone);
  const auto blocks =
      static_cast<size_t>(limits.max_batch) * static_cast<size_t>(length / layout.block_tokens + 2);
  SPOTD_ASSIGN_OR_RETURN(
      s.store, kvstore::KvStore::Create(s.backend.get(), layout, blocks * layout.BytesPerBlock()));
  s.transformer->AttachStore(s.store.get());
  return s;
}

absl::StatusOr<SelectorStorage> Storage() {
  const std::string name = absl::GetFlag(FLAGS_storage);
  if (name == "bf16") return SelectorStorage::kBf16;
  if (name == "int8") return SelectorStorage::kInt8;
  return InvalidArgument("--storage: '", name, "' is not bf16 or int8");
}

std::string CheckpointPath() {
  const std::string path = absl::GetFlag(FLAGS_checkpoint);
  return path.empty() ? absl::GetFlag(FLAGS_out) + ".checkpoint" : path;
}

// Steps until done or interrupted. What was learnt before an error stays in the last checkpoint.
absl::Status TrainLoop(Trainer& trainer, const TrainerOptions& options) {
  const CaughtInterrupts caught;
  Progress progress(trainer.next_step(), int64_t{options.length} * options.sequences_per_step);
  const int64_t every = std::max(1, absl::GetFlag(FLAGS_checkpoint_every));
  while (!trainer.done() && g_interrupted == 0) {
    const absl::StatusOr<StepReport> report = trainer.Step();
    if (!report.ok()) {
      progress.Finish();  // the error gets a line of its own
      return report.status();
    }
    progress.Show(*report);
    if (trainer.next_step() % every == 0)
      SPOTD_RETURN_IF_ERROR(trainer.SaveCheckpoint(CheckpointPath()));
  }
  progress.Finish();
  return trainer.SaveCheckpoint(CheckpointPath());
}

// What calibration's own checks, which know the model, take for granted.
absl::Status CheckCalibrationFlags() {
  struct Range {
    const char* flag;
    double value;
    double most;
  };
  const Range ranges[] = {{"--context", double(absl::GetFlag(FLAGS_context)), 1e9},
                          {"--documents", double(absl::GetFlag(FLAGS_documents)), 1e6},
                          {"--questions", double(absl::GetFlag(FLAGS_questions)), 1e6},
                          {"--answer_weight", absl::GetFlag(FLAGS_answer_weight), 1e6},
                          {"--tail", double(absl::GetFlag(FLAGS_tail)), 1e6},
                          {"--rounds", double(absl::GetFlag(FLAGS_rounds)), 1000}};
  for (const Range& range : ranges) {
    // Written so that NaN is refused.
    if (range.value >= 0 && range.value <= range.most) continue;
    return InvalidArgument(range.flag, " must not be negative, nor more than ", range.most,
                           ", got ", range.value);
  }
  return absl::OkStatus();
}

absl::Status RunCalibration() {
  SPOTD_RETURN_IF_ERROR(CheckCalibrationFlags());
  CalibrateOptions options;
  options.model = absl::GetFlag(FLAGS_model);
  options.selector = absl::GetFlag(FLAGS_calibrate);
  options.out = absl::GetFlag(FLAGS_out);
  options.corpus = absl::GetFlag(FLAGS_corpus);
  options.backend = absl::GetFlag(FLAGS_backend);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.context = absl::GetFlag(FLAGS_context);
  options.density = absl::GetFlag(FLAGS_density);
  options.documents = absl::GetFlag(FLAGS_documents);
  options.questions = absl::GetFlag(FLAGS_questions);
  options.answer_weight = absl::GetFlag(FLAGS_answer_weight);
  options.tail = absl::GetFlag(FLAGS_tail);
  options.rounds = absl::GetFlag(FLAGS_rounds);
  options.rules = absl::GetFlag(FLAGS_rules);
  options.densities = absl::GetFlag(FLAGS_densities);
  SPOTD_ASSIGN_OR_RETURN(options.storage, Storage());
  return Calibrate(options);
}

absl::Status Run() {
  SPOTD_RETURN_IF_ERROR(CheckWritable(absl::GetFlag(FLAGS_out)));
  if (!absl::GetFlag(FLAGS_calibrate).empty()) return RunCalibration();
  SPOTD_RETURN_IF_ERROR(CheckWritable(CheckpointPath()));
  SPOTD_ASSIGN_OR_RETURN(const SelectorStorage storage, Storage());
  SPOTD_ASSIGN_OR_RETURN(Setup s, Load());
  SPOTD_ASSIGN_OR_RETURN(const TrainerOptions options, OptionsFromFlags(s.source->config()));
  std::fprintf(stderr, "%s\n%lld documents, %lld training tokens, %lld held-out sequences\n",
               s.backend->description().c_str(), static_cast<long long>(s.corpus->documents()),
               static_cast<long long>(s.corpus->training_tokens()),
               static_cast<long long>(s.corpus->num_held_out()));
  SPOTD_ASSIGN_OR_RETURN(
      auto kernels, kernels::CreateDistillKernels(s.backend.get(), absl::GetFlag(FLAGS_threads)));
  SPOTD_ASSIGN_OR_RETURN(auto trainer,
                         Trainer::Create(s.backend.get(), s.transformer.get(), s.store.get(),
                                         s.corpus.get(), std::move(kernels), options));
  if (absl::GetFlag(FLAGS_resume)) SPOTD_RETURN_IF_ERROR(trainer->LoadCheckpoint(CheckpointPath()));
  SPOTD_RETURN_IF_ERROR(TrainLoop(*trainer, options));
  if (trainer->done()) g_interrupted = 0;  // too late to matter
  if (g_interrupted != 0) {
    std::fprintf(stderr, "interrupted at step %lld; --resume continues\n",
                 static_cast<long long>(trainer->next_step()));
    return absl::OkStatus();
  }
  if (auto held_out = trainer->Evaluate(absl::GetFlag(FLAGS_held_out_sequences)); held_out.ok()) {
    std::fprintf(stderr, "held out: KL %.4f  residual %.4f  mass@10%% %.3f\n", held_out->kl,
                 held_out->residual_kl, held_out->recalled_mass);
  }
  const std::string out = absl::GetFlag(FLAGS_out);
  SPOTD_RETURN_IF_ERROR(trainer->SaveSelector(out));
  SPOTD_RETURN_IF_ERROR(RewriteSelector(out, out, {}, storage));
  std::fprintf(stderr, "wrote %s\n", out.c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace spotd::distill

int main(int argc, char** argv) {
  spotd::tools::SetProgramHelp(spotd::distill::kUsage, "tools/spot_distill/");
  if (absl::ParseCommandLine(argc, argv).size() != 1) {
    std::fprintf(stderr, "spot-distill %s\n", spotd::distill::kUsage);
    return 2;
  }
  // Beyond a limit on the size of files a write shall fail, not end the program.
  std::signal(SIGXFSZ, SIG_IGN);
  if (const absl::Status status = spotd::distill::Run(); !status.ok()) {
    std::fprintf(stderr, "spot-distill: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  // An interrupted run has not done what it was asked: whoever started it must not take it for
  // done.
  const int interrupted = spotd::distill::g_interrupted;
  return interrupted == 0 ? 0 : 128 + interrupted;
}
