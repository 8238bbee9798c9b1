// spot-eval: what sparse decoding keeps of a model, measured on real text and on retrieval tasks.
// docs/quality.md shows its output; README.md in this folder documents its JSON.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "kernels/core/status.h"
#include "tools/common/program_help.h"
#include "tools/spot_eval/commands.h"
#include "tools/spot_eval/eval_options.h"

namespace spotd::eval {
namespace {

constexpr char kUsage[] =
    "compares decoding policies with dense decoding.\n"
    "  spot-eval ppl     next-token distributions on real text\n"
    "  spot-eval mass    the same, with the true attention mass each layer's choice covers\n"
    "  spot-eval needle  one fact in a long text, by depth and length\n"
    "  spot-eval track   variable tracking\n"
    "  spot-eval qa      facts strewn into documents\n"
    "e.g. spot-eval ppl --model M.gguf --selector S.safetensors --text texts/ --context 4096,8192 "
    "--policies distilled@0.8,quest@0.15 --out ppl.json";

absl::Status Run(const std::string& command) {
  const bool agreement = command == "ppl" || command == "mass";
  if (!agreement && command != "needle" && command != "track" && command != "qa") {
    return InvalidArgument("there is no command '", command, "'; see --help");
  }
  SPOTD_ASSIGN_OR_RETURN(const EvalOptions options, ReadOptions(command));
  return agreement ? RunAgreement(command, options) : RunRetrieval(command, options);
}

}  // namespace
}  // namespace spotd::eval

int main(int argc, char** argv) {
  spotd::tools::SetProgramHelp(spotd::eval::kUsage, "tools/spot_eval/");
  const std::vector<char*> args = absl::ParseCommandLine(argc, argv);
  if (args.size() != 2) {
    std::fprintf(stderr, "spot-eval %s\n", spotd::eval::kUsage);
    return 2;
  }
  if (const absl::Status status = spotd::eval::Run(args[1]); !status.ok()) {
    std::fprintf(stderr, "spot-eval: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
