#include "runtime/text/regex.h"

#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace spotd::text {
namespace {

// Far above what any pre-tokenizer needs for one token, and under a second of work.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = size_t{8} << 20;
constexpr size_t kMaxPatternBytes = 64 * 1024;

// What a thread needs to match: reused for all expressions, because making it costs more than a
// short match.
class Scratch {
 public:
  Scratch()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr)) {
    SPOTD_CHECK(data_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    // Without a stack of its own the library uses 32 KiB of the thread's.
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, stack_);
  }
  ~Scratch() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  pcre2_match_data* data() { return data_; }
  pcre2_match_context* context() { return context_; }

 private:
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_;
};

// Letters after a backslash whose meaning differs between the two libraries.
absl::Status CheckEscapes(const std::string& pattern) {
  constexpr std::string_view kDifferent = "wWbBhHRXKG";
  for (size_t i = 0; i + 1 < pattern.size(); ++i) {
    if (pattern[i] != '\\') continue;
    ++i;
    if (kDifferent.find(pattern[i]) != std::string_view::npos) {
      return Unimplemented("pattern \"", pattern, "\": \\", pattern[i], " is not supported");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Regex> Regex::Compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) return InvalidArgument("pattern is too long");
  SPOTD_RETURN_IF_ERROR(CheckEscapes(pattern));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    char reason[256] = "unknown error";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof reason);
    return InvalidArgument("pattern \"", pattern, "\": ", reason, " at offset ", offset);
  }
  const bool jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  std::shared_ptr<const void> owned(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return Regex(pattern, std::move(owned), jit);
}

Regex::Outcome Regex::Find(std::string_view subject, size_t from, size_t* begin,
                           size_t* end) const {
  thread_local Scratch scratch;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const int found =
      jit_ ? pcre2_jit_match(code, text, subject.size(), from, 0, scratch.data(), scratch.context())
           : pcre2_match(code, text, subject.size(), from, PCRE2_NO_UTF_CHECK, scratch.data(),
                         scratch.context());
  if (found == PCRE2_ERROR_NOMATCH) return Outcome::kNoMatch;
  if (found < 0) return Outcome::kTooMuchWork;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.data());
  *begin = offsets[0];
  *end = offsets[1];
  return Outcome::kMatch;
}

}  // namespace spotd::text
